"""What `torch.compile` needs of a machine, asked before it fails for want of it.

`engine` asks where it may choose, and `doctor` to say what is missing.
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
# As each looks for one: Triton in triton/runtime/build.py, torch for a CPU in
# torch/_inductor/cpp_builder.py.
_OF_TRITON: Final = ("CC", ("gcc", "clang"), "a C compiler: install gcc")
_OF_A_CPU: Final = ("CXX", ("g++", "clang++"), "a C++ compiler: install g++")


def keep_compiled_in(folder: Path) -> None:
    """What is compiled stays there over restarts; a folder that the environment names goes first.

    By default it would lie in /tmp, where containers often forbid to run it.
    """
    os.environ.setdefault(CACHE, str(folder / "inductor"))
    os.environ.setdefault(TRITON_CACHE, str(folder / "triton"))


def find_compiler(kind: str) -> str | None:
    """The compiler's path, for a device of this kind, `cuda` or `cpu`."""
    variable, names, _ = _wanted(kind)
    named = os.environ.get(variable)
    return next(filter(None, map(shutil.which, [named] if named else names)), None)


def missing_for_compiling(kind: str) -> list[str]:
    """What a device of this kind, `cuda` or `cpu`, lacks here, each with what to do."""
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
    """None: files can be written there and loaded as programs."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return "cannot be written to"
    if os.statvfs(there).f_flag & os.ST_NOEXEC:
        return "is mounted noexec"
    return None
