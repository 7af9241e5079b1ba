"""Checks what `torch.compile` needs on a machine, before it fails.

`engine` uses it to choose, and `doctor` to show what is missing.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
import tempfile
from pathlib import Path
from typing import Final

CACHE: Final = "TORCHINDUCTOR_CACHE_DIR"
TRITON_CACHE: Final = "TRITON_CACHE_DIR"
# How each of them finds its compiler: Triton in triton/runtime/build.py, torch for a CPU in
# torch/_inductor/cpp_builder.py.
_OF_TRITON: Final = ("CC", ("gcc", "clang"), "a C compiler: install gcc")
_OF_A_CPU: Final = ("CXX", ("g++", "clang++"), "a C++ compiler: install g++")


def keep_compiled_in(folder: Path) -> None:
    """Keeps compiled code in this folder over restarts, unless the environment names another.

    The default would be /tmp, where containers often forbid running code.
    """
    os.environ.setdefault(CACHE, str(folder / "inductor"))
    os.environ.setdefault(TRITON_CACHE, str(folder / "triton"))


def find_compiler(kind: str) -> str | None:
    """Returns the path of the compiler for this kind of device, `cuda` or `cpu`."""
    variable, names, _ = _wanted(kind)
    named = os.environ.get(variable)
    return next(filter(None, map(shutil.which, [named] if named else names)), None)


def missing_for_compiling(kind: str) -> list[str]:
    """Returns what is missing for this kind of device, `cuda` or `cpu`, and what to do about it."""
    missing = []
    if find_compiler(kind) is None:
        missing.append(_wanted(kind)[2])
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        missing.append(
            f"Python.h in {sysconfig.get_path('include')}: install Python's headers (python3-dev)"
        )
    for variable in (CACHE, TRITON_CACHE) if kind == "cuda" else (CACHE,):
        folder = Path(os.environ.get(variable) or tempfile.gettempdir())
        if why := _why_nothing_runs_in(folder):
            missing.append(f"{folder} {why}: set {variable} to another folder")
    return missing


def _wanted(kind: str) -> tuple[str, tuple[str, ...], str]:
    return _OF_TRITON if kind == "cuda" else _OF_A_CPU


def _why_nothing_runs_in(folder: Path) -> str | None:
    """Returns why code cannot be written there or run from there, or None if it can."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return "cannot be written to"
    if os.statvfs(there).f_flag & os.ST_NOEXEC:
        return "is mounted noexec"
    return None
