"""The C resampler under AddressSanitizer and UndefinedBehaviorSanitizer.

    python -m tests.pictures.sanitized EXTENSION FIRST_SEED CASES SECONDS

This program is the child process of `run`. It loads the sanitized extension in place of the
installed one, and runs this many cases of `tests.pictures.resampling`, or for this long. It prints
each case's number before it starts, so that a crash can be replayed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
SOURCE: Final = ROOT / "resnext" / "picture" / "_resample.c"
NAME: Final = "resnext.picture._resample"
FLAGS: Final = (
    *("-std=c11", "-O1", "-g", "-fPIC", "-shared", "-ffp-contract=off", "-Wall", "-Wextra"),
    *("-Werror", "-Wno-unused-parameter", "-fno-omit-frame-pointer"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
)
COMPILERS: Final = ("cc", "gcc", "clang")


class NoSanitizersError(Exception):
    """This machine cannot build or load the extension under sanitizers; the message says why."""


@dataclass(frozen=True)
class Sanitized:
    """The extension, and the sanitizers' library, which must be loaded before everything else."""

    extension: Path
    runtime: Path


@dataclass(frozen=True)
class Run:
    status: int
    cases: int
    last_seed: int | None
    output: str
    """The output of the sanitizers and Python."""


def find_compiler() -> str | None:
    return next(filter(None, map(shutil.which, COMPILERS)), None)


def build(folder: Path, *defined: str) -> Sanitized:
    """Builds the extension under sanitizers.

    Args:
        folder: where the extension is written.
        defined: names to define in the C preprocessor.

    Raises:
        NoSanitizersError: there is no compiler, or it has no sanitizers.
    """
    compiler = find_compiler()
    if compiler is None:
        raise NoSanitizersError(f"there is no C compiler; looked for {', '.join(COMPILERS)}")
    clang = "clang" in _said([compiler, "--version"])
    machine = sysconfig.get_platform().rpartition("-")[2]
    library = f"libclang_rt.asan-{machine}.so" if clang else "libasan.so"
    runtime = Path(_said([compiler, f"-print-file-name={library}"]).strip())
    if not runtime.is_absolute():
        raise NoSanitizersError(f"{compiler} has no {library}")
    made = Sanitized(folder / "_resample.abi3.so", runtime)
    include = f"-I{sysconfig.get_path('include')}"
    flags = [*FLAGS, *(["-shared-libasan"] if clang else []), *(f"-D{name}" for name in defined)]
    _said([compiler, *flags, include, str(SOURCE), "-o", str(made.extension)])
    if (tried := run(made, seed=0, cases=0)).status:
        raise NoSanitizersError(f"Python does not run under {runtime}: {tried.output}")
    return made


def _said(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoSanitizersError(f"{' '.join(command)}: {done.stderr}")
    return done.stdout


def run(sanitized: Sanitized, *, seed: int, cases: int, seconds: float = 3600) -> Run:
    """Runs the cases `seed`, `seed + 1` … in a child process."""
    options = map(str, (sanitized.extension, seed, cases, seconds))
    environment = os.environ | {
        "LD_PRELOAD": str(sanitized.runtime),
        "ASAN_OPTIONS": "detect_leaks=0",  # at exit Python still holds memory
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",  # the sanitizer cannot see into Python's own allocator
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.pictures.sanitized", *options],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    seeds = [int(line) for line in done.stdout.split()]
    return Run(done.returncode, len(seeds), seeds[-1] if seeds else None, done.stderr)


def main() -> None:
    extension, seed, cases, seconds = sys.argv[1:]
    _load(extension)
    from tests.pictures.resampling import run_case

    ends_at = time.monotonic() + float(seconds)
    for case in range(int(seed), int(seed) + int(cases)):
        if time.monotonic() > ends_at:
            return
        sys.stdout.write(f"{case}\n")
        sys.stdout.flush()
        run_case(case)


def _load(extension: str) -> None:
    loader = ExtensionFileLoader(NAME, extension)
    spec = spec_from_loader(NAME, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    sys.modules[NAME] = module


if __name__ == "__main__":
    main()
