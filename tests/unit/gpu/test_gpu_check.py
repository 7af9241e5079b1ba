"""The GPU check can fail: how it judges, how it ends steps that hang, and when it skips."""

from __future__ import annotations

import time
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest

from benchmarks.gpu_check import registry
from benchmarks.gpu_check.__main__ import main
from benchmarks.gpu_check.report import Finding
from benchmarks.gpu_check.runner import DEADLINE, Result, run_steps
from benchmarks.gpu_check.step import Step
from benchmarks.gpu_check.table import WIDTH, markdown, paragraph

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


def test_a_step_fails_if_it_misses_a_mark_or_measures_nan(tmp_path) -> None:
    (result,) = run(tmp_path, step("misses"))
    assert result.verdict == "FAIL"
    assert verdicts(result.findings) == {"error": "FAIL", "speed": "FAIL", "goes on": "NOTE"}


def test_a_step_that_crashes_fails_but_its_findings_are_kept_and_other_steps_run(tmp_path) -> None:
    crashed, after = run(tmp_path, step("aborts"), step("passes"))
    assert (crashed.verdict, after.verdict) == ("FAIL", "PASS")
    assert crashed.why.startswith("ended by SIGABRT")
    assert verdicts(crashed.findings) == {"error": "PASS"}


def test_a_step_that_raises_fails_with_the_error(tmp_path) -> None:
    (result,) = run(tmp_path, step("raises"))
    assert result.verdict == "FAIL"
    assert "exit status 1: RuntimeError: CUDA error: device-side assert" in result.why


def test_a_step_that_hangs_fails_and_is_ended_with_its_child_processes(tmp_path) -> None:
    hung, after = run(tmp_path, step("hangs", limit_s=5.0), step("passes"))
    assert (hung.verdict, after.verdict) == ("FAIL", "PASS")
    assert "by its limit of 5 s" in hung.why
    (pid,) = (int(one.value) for one in hung.findings if one.what == "its process")
    assert not is_alive(pid)


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(("may_be_cut", "expected"), [(False, "FAIL"), (True, "PASS")])
def test_at_the_deadline_a_step_is_cut_and_fails_unless_it_may_be_cut(
    tmp_path, may_be_cut, expected
) -> None:
    hangs = step("hangs", may_be_cut=may_be_cut)
    (result,) = run(tmp_path, hangs, deadline_s=5.0)
    assert (result.verdict, DEADLINE in result.why) == (expected, True)


def test_a_step_that_does_not_fit_before_the_deadline_is_skipped(tmp_path) -> None:
    late, fits = run(tmp_path, step("passes", estimate_s=500.0), step("passes"))
    assert (late.verdict, fits.verdict) == ("SKIP", "PASS")
    assert late.why == "it takes about 500 s, and 100 s are left"


def test_without_a_gpu_steps_that_need_one_are_skipped(tmp_path) -> None:
    for_gpu, for_both = run(tmp_path, step("passes"), step("passes", on_cpu=True), has_gpu=not GPU)
    assert (for_gpu.verdict, for_gpu.why) == ("SKIP", "this machine has no GPU")
    assert for_both.verdict == "PASS"


@pytest.mark.parametrize(("name", "expected"), [("elsewhere", "SKIP"), ("silent", "FAIL")])
def test_a_step_that_finds_nothing_does_not_pass(tmp_path, name, expected) -> None:
    (result,) = run(tmp_path, step(name))
    assert result.verdict == expected


# The command


@pytest.fixture
def planted(monkeypatch) -> None:
    for name in ("passes", "misses"):
        monkeypatch.setitem(registry.STEPS, name, step(name, on_cpu=True))


def test_the_exit_status_is_1_if_a_step_fails(planted, tmp_path, capsys) -> None:
    options = ["--out", str(tmp_path), "--table", str(tmp_path / "table.md")]
    assert main(["--steps", "passes", *options]) == 0
    assert main(["--steps", "passes", "misses", *options]) == 1
    printed = capsys.readouterr().out
    assert "PASS  passes" in printed
    assert "FAIL  misses" in printed
    assert max(map(len, printed.splitlines())) <= WIDTH
    assert "| misses | FAIL |" in (tmp_path / "table.md").read_text()


def test_steps_can_be_named_by_number() -> None:
    names = list(registry.STEPS)
    assert [one.name for one in registry.find_steps(["0-7"])] == names[:8]
    assert [one.name for one in registry.find_steps(["8", "faults"])] == [names[8], "faults"]
    with pytest.raises(ValueError, match="'20' is not a step"):
        registry.find_steps(["20"])


@pytest.mark.parametrize("name", registry.STEPS)
def test_every_step_exists_and_its_limit_exceeds_its_estimate(name) -> None:
    one = registry.STEPS[name]
    assert callable(resolve_name(one.check))
    assert one.limit_s > one.estimate_s


def test_the_table_shows_the_findings() -> None:
    finding = Finding(step="a", what="speed", verdict="FAIL", value=11_000, mark="≥ 12,000")
    note = Finding(step="a", what="kernel", text="conv|relu")
    result = Result(step="a", verdict="FAIL", seconds=3, findings=(note, finding))
    told = "FAIL speed 11,000 (mark ≥ 12,000); kernel conv"
    assert paragraph(result) == f"FAIL  a, 3 s: {told}|relu"
    assert f"| a | FAIL | 3 | {told}\\|relu |" in markdown("A machine", [result])
