"""The check of a GPU can fail: what it judges, how it ends what hangs, and when it skips."""

from __future__ import annotations

import time
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.gpu_check import devices, registry
from benchmarks.gpu_check.__main__ import main
from benchmarks.gpu_check.devices import DOUBLE_BATCH, Tried
from benchmarks.gpu_check.report import Finding, Report, read_findings
from benchmarks.gpu_check.runner import DEADLINE, Result, run_steps
from benchmarks.gpu_check.step import FINDINGS, Given, Step
from benchmarks.gpu_check.steps import exactness, faults, lanes
from benchmarks.gpu_check.steps.faults import Fault
from benchmarks.gpu_check.table import WIDTH, markdown, paragraph
from resnext.classifier import Classifier, _top, load_classifier
from resnext.load import load_network
from resnext.run.cuda_runner import CudaRunner
from resnext.spec.catalogue import BUNDLED, find_spec
from resnext.weights.random import normalise
from tests.doubles import cuda as double
from tests.doubles.cuda import Cuda, make_classifier, pictures

GPU = True


def step(name: str, **options: Any) -> Step:
    given: dict[str, Any] = {"estimate_s": 1.0, "limit_s": 60.0}
    return Step(name=name, check=f"tests.doubles.gpu_steps:{name}", **(given | options))


def run(folder: Path, *steps: Step, deadline_s: float = 100.0, has_gpu: bool = GPU) -> list[Result]:
    ends_at = time.time() + deadline_s
    return list(run_steps(steps, out=folder, scratch=folder, ends_at=ends_at, has_gpu=has_gpu))


def verdicts(findings: tuple[Finding, ...] | list[Finding]) -> dict[str, str]:
    return {one.what: one.verdict for one in findings}


# How a step ends


def test_a_step_that_meets_its_marks_passes(tmp_path) -> None:
    (result,) = run(tmp_path, step("passes"))
    assert (result.verdict, result.why) == ("PASS", "")
    assert verdicts(result.findings) == {"left": "NOTE", "error": "PASS"}


def test_a_step_that_misses_a_mark_fails_and_so_does_one_that_measures_no_number(tmp_path) -> None:
    (result,) = run(tmp_path, step("misses"))
    assert result.verdict == "FAIL"
    assert verdicts(result.findings) == {"error": "FAIL", "speed": "FAIL", "goes on": "NOTE"}


def test_a_step_that_crashes_fails_the_others_run_and_what_it_knew_is_kept(tmp_path) -> None:
    crashed, after = run(tmp_path, step("aborts"), step("passes"))
    assert (crashed.verdict, after.verdict) == ("FAIL", "PASS")
    assert crashed.why.startswith("ended by SIGABRT")
    assert verdicts(crashed.findings) == {"error": "PASS"}


def test_a_step_that_raises_fails_and_says_with_what(tmp_path) -> None:
    (result,) = run(tmp_path, step("raises"))
    assert result.verdict == "FAIL"
    assert "exit status 1: RuntimeError: CUDA error: device-side assert" in result.why


def test_a_step_that_hangs_fails_and_is_ended_with_all_it_started(tmp_path) -> None:
    hung, after = run(tmp_path, step("hangs", limit_s=5.0), step("passes"))
    assert (hung.verdict, after.verdict) == ("FAIL", "PASS")
    assert "by its limit of 5 s" in hung.why
    (pid,) = (int(one.value) for one in hung.findings if one.what == "its process")
    assert not is_alive(pid)


def is_alive(pid: int) -> bool:
    """A process that waits for its parent to ask how it ended is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(("may_be_cut", "expected"), [(False, "FAIL"), (True, "PASS")])
def test_the_deadline_is_kept_and_cuts_what_may_be_cut(tmp_path, may_be_cut, expected) -> None:
    hangs = step("hangs", may_be_cut=may_be_cut)
    (result,) = run(tmp_path, hangs, deadline_s=5.0)
    assert (result.verdict, DEADLINE in result.why) == (expected, True)


def test_a_step_that_does_not_fit_before_the_deadline_is_not_begun(tmp_path) -> None:
    late, fits = run(tmp_path, step("passes", estimate_s=500.0), step("passes"))
    assert (late.verdict, fits.verdict) == ("SKIP", "PASS")
    assert late.why == "it takes about 500 s, and 100 s are left"


def test_without_a_gpu_a_step_for_one_is_not_begun(tmp_path) -> None:
    for_gpu, for_both = run(tmp_path, step("passes"), step("passes", on_cpu=True), has_gpu=not GPU)
    assert (for_gpu.verdict, for_gpu.why) == ("SKIP", "this machine has no GPU")
    assert for_both.verdict == "PASS"


@pytest.mark.parametrize("name", ["elsewhere", "silent"])
def test_a_step_that_finds_nothing_does_not_pass(tmp_path, name) -> None:
    (result,) = run(tmp_path, step(name))
    assert result.verdict == "SKIP"


# The command


@pytest.fixture
def planted(monkeypatch) -> None:
    for name in ("passes", "misses"):
        monkeypatch.setitem(registry.STEPS, name, step(name, on_cpu=True))


def test_the_exit_status_is_1_where_a_step_fails(planted, tmp_path, capsys) -> None:
    options = ["--out", str(tmp_path), "--table", str(tmp_path / "table.md")]
    assert main(["--steps", "passes", *options]) == 0
    assert main(["--steps", "passes", "misses", *options]) == 1
    printed = capsys.readouterr().out
    assert "PASS  passes" in printed
    assert "FAIL  misses" in printed
    assert max(map(len, printed.splitlines())) <= WIDTH
    assert "| misses | FAIL |" in (tmp_path / "table.md").read_text()


def test_steps_are_named_by_number_as_well() -> None:
    names = list(registry.STEPS)
    assert [one.name for one in registry.find_steps(["0-7"])] == names[:8]
    assert [one.name for one in registry.find_steps(["8", "faults"])] == [names[8], "faults"]
    with pytest.raises(ValueError, match="'20' is no step"):
        registry.find_steps(["20"])


@pytest.mark.parametrize("name", registry.STEPS)
def test_every_step_is_there_and_may_take_longer_than_it_should(name) -> None:
    one = registry.STEPS[name]
    assert callable(resolve_name(one.check))
    assert one.limit_s > one.estimate_s


def test_a_table_holds_what_was_found() -> None:
    finding = Finding(step="a", what="speed", verdict="FAIL", value=11_000, mark="≥ 12,000")
    note = Finding(step="a", what="kernel", text="conv|relu")
    result = Result(step="a", verdict="FAIL", seconds=3, findings=(note, finding))
    told = "FAIL speed 11,000 (mark ≥ 12,000); kernel conv"
    assert paragraph(result) == f"FAIL  a, 3 s: {told}|relu"
    assert f"| a | FAIL | 3 | {told}\\|relu |" in markdown("A machine", [result])


# Exactness


@pytest.fixture
def report(tmp_path) -> Report:
    return Report(tmp_path / FINDINGS, "tried")


def found_in(folder: Path) -> dict[str, str]:
    return verdicts(read_findings(folder / FINDINGS, "tried"))


def reference(pixels: np.ndarray) -> np.ndarray:
    """(N, 32, 32, 3) uint8 → (N, 10) float64, by the network as it was trained."""
    spec = find_spec(BUNDLED)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).double() / 255
    network = load_network(spec).network.double()
    with torch.inference_mode():
        logits: np.ndarray = network(normalise(images, spec.preprocessing)).numpy()
    return logits


@pytest.fixture(scope="module")
def seen() -> tuple[np.ndarray, np.ndarray]:
    """Pictures and their logits."""
    pixels = np.random.default_rng(0).integers(256, size=(3, 32, 32, 3), dtype=np.uint8)
    return pixels, reference(pixels)


def make(precision: Any = "fp32") -> Classifier:
    return load_classifier(BUNDLED, device="cpu", precision=precision, batch_images=4)


@pytest.mark.parametrize("precision", ["fp32", "amp"])
def test_the_network_is_exact(report, seen, tmp_path, precision) -> None:
    exactness.compare(make(precision), *seen, report)
    assert "FAIL" not in found_in(tmp_path).values()


@pytest.mark.parametrize("planted_error", [0.01, float("nan")])
def test_a_wrong_logit_fails(report, seen, tmp_path, planted_error) -> None:
    """One of ten, of the last picture of the largest batch alone."""
    classifier = make()
    forward = classifier._forward

    def wrong(pixels: torch.Tensor) -> torch.Tensor:
        logits = forward(pixels)
        if len(pixels) == 4:
            logits[3, 7] += planted_error * logits.abs().max()
        return logits

    classifier._forward = wrong
    classifier._runner = classifier._make_runner(_top)
    exactness.compare(classifier, *seen, report)
    found = found_in(tmp_path)
    assert found["fp32 error of the largest logit"] == found["fp32 relative L2"] == "FAIL"


def test_another_class_fails(report, seen, tmp_path) -> None:
    pixels, logits = seen
    others = np.roll(logits, 1, axis=1)
    exactness.compare(make(), pixels, others, report)
    assert found_in(tmp_path)["fp32 changed classes"] == "FAIL"


def test_a_picture_that_spoils_its_neighbours_fails(report, seen, tmp_path) -> None:
    pixels, _ = seen
    classifier = make()
    forward = classifier._forward
    classifier._forward = lambda images: forward(images) * torch.inf
    classifier._runner = classifier._make_runner(_top)
    exactness.overflow(classifier, np.concatenate([pixels, pixels]), report)
    assert list(found_in(tmp_path).values()) == ["FAIL"]


# Lanes


@pytest.fixture
def tried(monkeypatch) -> Tried:
    """The double, as the step itself takes it."""
    gpu = Cuda()
    gpu.install(monkeypatch.setattr)
    made = Tried(
        make=lambda: make_classifier(gpu, DOUBLE_BATCH), pictures=pictures(*range(64)), double=gpu
    )
    monkeypatch.setattr(devices, "find", lambda _: made)
    return made


def check_lanes(folder: Path) -> dict[str, str]:
    given = Given(out=folder, scratch=folder, ends_at=time.time() + 60)
    lanes.check(given, Report(folder / FINDINGS, "tried"))
    return found_in(folder)


def test_lanes_that_are_right_pass(tried, tmp_path) -> None:
    found = check_lanes(tmp_path)
    assert "FAIL" not in found.values()
    assert found["speed"] == "SKIP"


def test_a_capture_after_the_warm_up_fails(tried, tmp_path, monkeypatch) -> None:
    """The warm-up meets one lane alone."""
    monkeypatch.setattr(CudaRunner, "lanes", 1)
    found = check_lanes(tmp_path)
    assert found["graphs in each lane"] == found["captures after the warm-up"] == "FAIL"


def test_a_batch_that_is_computed_before_its_pictures_are_there_fails(
    tried, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(double.Stream, "wait_event", lambda *_: None)
    assert check_lanes(tmp_path)["wrong answers"] == "FAIL"


# Faults


def try_(folder: Path, fault: Fault) -> Finding:
    given = Given(out=folder, scratch=folder, ends_at=time.time() + 60)
    faults.try_(fault, given, Report(folder / FINDINGS, "tried"))
    (found,) = read_findings(folder / FINDINGS, "tried")
    return found


PROGRAM = "tests.doubles.gpu_steps"


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault(name="ends", what="", status=1, says="broken:", program=PROGRAM), "PASS"),
        (Fault(name="ends", what="", status=1, says="DeviceBroken", program=PROGRAM), "FAIL"),
        (Fault(name="ends", what="", status=0, program=PROGRAM), "FAIL"),
        (Fault(name="aborts", what="", status=1, program=PROGRAM), "FAIL"),
        (Fault(name="hangs", what="", status=1, within_s=2.0, program=PROGRAM), "FAIL"),
        (Fault(name="skips", what="", status=1, program=PROGRAM), "SKIP"),
    ],
    ids=["as it should", "says nothing", "status", "signal", "hangs", "skipped"],
)
def test_a_fault_must_end_as_it_should(tmp_path, fault, expected) -> None:
    assert try_(tmp_path, fault).verdict == expected
