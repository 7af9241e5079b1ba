"""Causes one fault in this process: `python -m benchmarks.gpu_check.faults NAME SCRATCH FOLDER`.

The step `faults` starts it, and knows how it should end. SCRATCH has the weights; only this process
uses FOLDER.
"""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

import resnext.classifier
from benchmarks.gpu_check import devices
from benchmarks.gpu_check.devices import Tried, wrong
from benchmarks.gpu_check.step import die_with_parent
from benchmarks.gpu_check.steps.faults import SKIPPED
from resnext import Classifier, load_classifier
from resnext.errors import DeviceBroken
from resnext.run.compiler import CACHE, TRITON_CACHE, missing_for_compiling
from resnext.run.watchdog import Watchdog
from resnext.spec.catalogue import BUNDLED
from tests.doubles.cuda import make_classifier

NOBODY: Final = 65534
_PR_SET_DUMPABLE: Final = 4
_HUNG_AFTER_S: Final = 3.0
# Cycles of the SM's clock: more than half a minute.
_HANGING_CYCLES: Final = 60_000_000_000
_LITTLE_BYTES: Final = 10**9  # a batch of 256 needs more for its first activations
_LARGEST_CACHED: Final = 4


class SkippedError(Exception):
    """This machine cannot have the fault."""


def main() -> None:
    die_with_parent()
    name, scratch, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    try:
        _FAULTS[name](scratch, folder)
    except SkippedError as why:
        print(why)
        sys.exit(SKIPPED)


def memory(scratch: Path, _: Path) -> None:
    tried = devices.find(scratch)
    if tried.double is None:
        share = _LITTLE_BYTES / torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(share)
    else:
        tried.double.on_compute = _too_much
    classifier = tried.make()
    classifier.warm_up()
    assert classifier._most < classifier.batch_images, "it was not halved"
    for lane in _lanes(classifier):
        left = [size for size in classifier._buckets if size <= classifier._most]
        assert sorted(lane.graphs) == left, "a size has no graph"
    _assert_right(classifier, tried)
    print(f"batches of {classifier._most} are left")


def _too_much(images: int) -> None:
    if images > _LARGEST_CACHED:
        raise torch.OutOfMemoryError("CUDA out of memory.")


def capture(scratch: Path, _: Path) -> None:
    tried = devices.find(scratch)
    classifier = tried.make()
    if tried.double is None:
        forward = classifier._runner._forward  # type: ignore[attr-defined]
        classifier._runner._forward = lambda pixels: _uncapturable(forward, pixels)  # type: ignore[attr-defined]
    else:
        tried.double.on_capture = _refuse
    classifier.warm_up()
    assert not any(lane.graphs for lane in _lanes(classifier)), "it was captured"
    _assert_right(classifier, tried)


def _uncapturable(forward: Callable[[Any], Any], pixels: Any) -> Any:
    """Waits for the device, which makes a capture fail."""
    found = forward(pixels)
    if torch.cuda.is_current_stream_capturing():
        torch.cuda.synchronize()
    return found


def _refuse(_: int) -> None:
    raise torch.AcceleratorError("CUDA error: operation not permitted when stream is capturing")


def sticky(scratch: Path, _: Path) -> None:
    """The error as a user of the library sees it: nothing catches it."""
    classifier, images = _broken(scratch)
    classifier.classify(images)


def sticky_worker(scratch: Path, _: Path) -> None:
    """Ends like a worker: see `worker.main`."""
    classifier, images = _broken(scratch)
    try:
        classifier.classify(images)
    except DeviceBroken as error:
        print(f"broken: {error}", flush=True)
        os._exit(1)


def _broken(scratch: Path) -> tuple[Classifier, np.ndarray]:
    """A classifier with a batch in flight on a device that breaks, and pictures."""
    tried = devices.find(scratch)
    if tried.double is not None:
        cuda = tried.double
        cuda.when_pinned_is_freed = lambda: os.abort() if cuda.broken else None  # as torch does
    classifier = tried.make()
    classifier.warm_up()
    classifier.start(tried.pictures[:2])
    if tried.double is not None:
        tried.double.break_down()
    else:
        beyond = torch.tensor([5], device="cuda")
        torch.zeros(1, device="cuda")[beyond]  # a device-side assert
    return classifier, tried.pictures[:2]


def hang(scratch: Path, _: Path) -> None:
    tried = devices.find(scratch)
    classifier = tried.make()
    classifier.warm_up()
    if tried.double is not None:
        tried.double.hangs = True
    else:
        with torch.cuda.stream(classifier._runner._computing):  # type: ignore[attr-defined]
            torch.cuda._sleep(_HANGING_CYCLES)
    began = time.monotonic()
    watchdog = Watchdog(lambda: time.monotonic() - began, _end, hung_after_s=_HUNG_AFTER_S)
    watchdog.start()
    threading.Thread(target=classifier.classify, args=(tried.pictures[:2],), daemon=True).start()
    time.sleep(10 * _HUNG_AFTER_S)  # the watchdog should end this first
    print("the watchdog has not noticed that the device hangs")
    sys.exit(2)


def _end(busy_s: float) -> None:
    print(f"hangs: {busy_s:.0f} s", flush=True)
    os._exit(1)


def compiler(scratch: Path, _: Path) -> None:
    if torch.cuda.is_available():
        _runs_uncompiled(lambda: load_classifier(BUNDLED, engine="compiled", batch_images=4))
        return
    double = devices.find(scratch).double
    assert double is not None
    for name, stand_in in {
        "compile_module": _find_no_compiler,
        "PixelsToLogits": torch.nn.Module,  # stands for the compiled module on the double
        "choose_layers": lambda module, *_, **__: module,
    }.items():
        setattr(resnext.classifier, name, stand_in)
    _runs_uncompiled(lambda: make_classifier(double, 4, engine="compiled"))


def _find_no_compiler(*_: object) -> Callable[[Any], Any]:
    def compiled(_: Any) -> Any:
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable")

    return compiled


def noexec(_: Path, folder: Path) -> None:
    """Uses a noexec mount that the machine already has, such as /dev/shm in a container."""
    if not torch.cuda.is_available():
        raise SkippedError("needs a GPU: only its compiler loads compiled code")
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    found = [
        Path(path)
        for _, path, kind, options, *_ in mounts
        if kind == "tmpfs" and "noexec" in options.split(",") and os.access(path, os.W_OK)
    ]
    for path in found:
        caches = path / f"gpu-check-{folder.name}"
        try:
            caches.mkdir()
        except OSError:
            continue
        try:
            os.environ[CACHE] = os.environ[TRITON_CACHE] = str(caches)
            assert missing_for_compiling("cuda"), f"{path} is noexec, and nothing says so"
            _runs_uncompiled(lambda: load_classifier(BUNDLED, engine="compiled", batch_images=4))
        finally:
            shutil.rmtree(caches, ignore_errors=True)
        return
    raise SkippedError("no folder here is mounted noexec and can be written to")


def _runs_uncompiled(make: Callable[[], Classifier]) -> None:
    """Checks that the log says so once, and that every size is classified."""
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("resnext").addHandler(handler)
    made = make()
    made.warm_up()
    assert made.engine == "eager", "it was compiled"
    assert sum("runs uncompiled" in line for line in told) == 1, told
    assert np.isfinite(made.classify(_noise(made, 3)).scores).all()
    print(told[0])


def undumpable(_: Path, folder: Path) -> None:
    """Starts like a worker in a container: without root, and with a /proc/self that belongs to
    root, so that no process of its user can read its memory there. CUDA starts after that.
    """
    if os.geteuid() == 0:
        for needed in (torch.__file__, np.__file__, os.__file__, __file__):
            if not _is_open_to_all(Path(needed)):
                raise SkippedError(f"other users cannot read {needed}")
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    os.environ["HOME"] = str(folder)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0
    engines = ["eager"]
    if torch.cuda.is_available() and not missing_for_compiling("cuda"):
        engines.append("compiled")
    for engine in engines:
        made = load_classifier(BUNDLED, engine=engine, batch_images=1)  # type: ignore[arg-type]
        made.warm_up()
        assert made.engine == engine, f"{engine} became {made.engine}"
        assert np.isfinite(made.classify(_noise(made, 1)).scores).all()
    print(" and ".join(engines))


def _is_open_to_all(path: Path) -> bool:
    above = all(folder.stat().st_mode & 0o001 for folder in path.resolve().parents)
    return above and bool(path.stat().st_mode & 0o004)


def _noise(made: Classifier, number: int) -> np.ndarray:
    crop = made.spec.preprocessing.crop
    return np.random.default_rng(0).integers(256, size=(number, crop, crop, 3), dtype=np.uint8)


def _lanes(classifier: Classifier) -> list[Any]:
    return classifier._runner._lanes  # type: ignore[attr-defined, no-any-return]


def _assert_right(classifier: Classifier, tried: Tried) -> None:
    table = tried.table(classifier)
    for sent in _sent(tried, classifier.batch_images):
        found = classifier.classify(tried.pictures[sent])
        assert wrong(found, table, sent) == 0, f"wrong answers in a batch of {len(sent)}"


def _sent(tried: Tried, most: int) -> Iterator[np.ndarray]:
    for size in (1, 3, most // 2 + 1, most):
        yield (np.arange(size) * 7) % len(tried.pictures)


_FAULTS: Final[dict[str, Callable[[Path, Path], None]]] = {
    "memory": memory,
    "capture": capture,
    "sticky": sticky,
    "sticky_worker": sticky_worker,
    "hang": hang,
    "compiler": compiler,
    "noexec": noexec,
    "undumpable": undumpable,
}


if __name__ == "__main__":
    main()
