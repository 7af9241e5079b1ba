"""Checks a release from `release/build.py` in the way its users will use it.

    python release/check.py FOLDER TOOLS

Each wheel is installed into a clean environment: the client alone, resnext-queue without torch, and
a complete worker. In each environment the installed packages must fit together, a user's program
must run, and mypy must accept it. A bill of materials (CycloneDX) is written next to the wheels.
TOOLS is the folder with the commands that only this script uses.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
SERVER, CLIENT = "resnext_queue-*.whl", "resnextq_client-*.whl"


@dataclass(frozen=True)
class Clean:
    """A clean environment, and what a user does there."""

    name: str
    wheel: str
    install: tuple[str, ...]
    """What is installed before the wheel."""
    argument: str | None = None
    """The argument for the user's program; `.`: a folder that it may write to."""
    commands: tuple[tuple[str, ...], ...] = ()


LOCKED: Final = ("--require-hashes", "-r")
ENVIRONMENTS: Final = (
    Clean("client", CLIENT, ("urllib3>=2.2",)),
    Clean(
        "producer",
        SERVER,
        (*LOCKED, str(ROOT / "requirements" / "producer.txt")),
        ".",
        (("resnextq", "--version"), ("resnextq", "submit", "--help")),
    ),
    Clean(
        "worker",
        SERVER,
        (*LOCKED, str(ROOT / "requirements" / "worker.txt")),
        str(ROOT / "demo" / "pictures" / "red-panda.png"),
        (("resnextq", "worker", "--help"), ("resnextq", "export", "--help")),
    ),
)


def main(target: str, tools: str) -> int:
    folder = Path(target).absolute()
    contents = Path(tools).absolute() / "check-wheel-contents"
    _run([contents, *folder.glob(SERVER)], ROOT)  # reads its options from pyproject.toml
    _run([contents, "--no-config", *folder.glob(CLIENT)], ROOT)
    for one in ENVIRONMENTS:
        with tempfile.TemporaryDirectory() as temporary:
            check(one, folder, Path(temporary), Path(tools).absolute())
    return 0


def check(one: Clean, dist: Path, folder: Path, tools: Path) -> None:
    """
    Raises:
        SystemExit: a command failed.
    """
    (wheel,) = dist.glob(one.wheel)
    python = folder / "environment" / "bin" / "python"
    install = [BIN / "uv", "pip", "install", "--quiet", "--python", python]
    _run([BIN / "uv", "venv", "--quiet", "--python", sys.executable, python.parents[1]], folder)
    _run([*install, *one.install], folder)
    _run([*install, "--no-deps", wheel], folder)
    _run([BIN / "uv", "pip", "check", "--quiet", "--python", python], folder)
    for command in one.commands:
        _run([python.with_name(command[0]), *command[1:]], folder)
    consumer = ROOT / "release" / "consumers" / f"uses_{one.name}.py"
    _run([python, consumer, *([one.argument] if one.argument else [])], folder)
    strict = ("--strict", "--config-file", os.devnull, "--cache-dir", os.devnull)
    _run([BIN / "mypy", *strict, "--python-executable", python, consumer], folder)
    parts = dist / f"{one.name}.cdx.json"
    cyclone = (tools / "cyclonedx-py", "environment", python, "--output-reproducible")
    _run([*cyclone, "--output-format", "JSON", "--output-file", parts], folder)
    print(f"{wheel.name}, {one.name}: installs, runs and type-checks; its parts: {parts.name}")


def _run(command: list[str | Path], folder: Path) -> None:
    """Runs a command without PYTHONPATH, so that it cannot import our sources."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=clean, capture_output=True, text=True, check=False
    )
    if done.returncode:
        words = " ".join(map(str, command))
        raise SystemExit(f"{words} failed:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
