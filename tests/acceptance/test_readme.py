"""Every command of the README, as a reader types them, from the first to the last.

They run in one shell, in a copy of the repository with a home of its own and `random` weights.
What is not run here is named below, with the test that runs it: a command that is new in the
README is run, and has to work.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLAGS = re.DOTALL | re.MULTILINE
BLOCK = re.compile(r"^```(?:console|sh)\n(.*?)^```", FLAGS)

# These stay in the foreground; here they are started, and stopped with the shell.
STAYING = {"resnextq up"}
# These are run by another test, or are what runs this one.
ELSEWHERE = {
    "make demo": "tests/acceptance/test_demo.py",
    "make setup": "Makefile",
    "make test": "Makefile",
    "cp .env.example .env": "tests/acceptance/test_compose.py",
    "docker compose up --detach --scale worker=4": "tests/acceptance/test_compose.py",
}
NOT_COPIED = shutil.ignore_patterns(
    ".venv", ".git", ".*_cache", ".hypothesis", ".env", "__pycache__", "build", "*.egg-info"
)


def commands() -> list[str]:
    """What follows a `$ ` in the README's blocks, continued lines joined."""
    blocks = BLOCK.findall((ROOT / "README.md").read_text())
    lines = "".join(blocks).replace("\\\n", "").splitlines()
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def script(log: Path) -> str:
    """The commands as one program of the shell, which stops at the first that fails."""
    lines = ["set -eu"]
    for command in commands():
        if command in ELSEWHERE:
            continue
        lines.append(f"echo {shlex.quote(f'$ {command}')} >&2")
        if command in STAYING:
            lines += [f"{command} >{shlex.quote(str(log))} 2>&1 &", "read -r _"]
        else:
            lines.append(command)
    return "\n".join([*lines, "echo all commands done"])


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A new shell in a copy of the repository; everything that it starts ends with the test."""
    repository = tmp_path / "repository"
    shutil.copytree(ROOT, repository, ignore=NOT_COPIED)
    (repository / ".venv").symlink_to(ROOT / ".venv")
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"} | {
        "HOME": str(tmp_path),
        "RESNEXT_HOME": str(tmp_path / "home"),
        "RESNEXT_WEIGHTS": "random",
        "RESNEXT_FLOWER_PORT": "0",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    shell = subprocess.Popen(
        ["bash", "-c", script(tmp_path / "up.log")],
        cwd=repository,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    yield shell
    stop(shell)


def stop(shell: subprocess.Popen[str]) -> None:
    """SIGTERM to all that the shell has started, `up` among it, and wait for the last of them."""
    with suppress(ProcessLookupError):
        os.killpg(shell.pid, signal.SIGTERM)
        wait_for_group(shell, within_s=60)
        os.killpg(shell.pid, signal.SIGKILL)
    shell.communicate()


def wait_for_group(shell: subprocess.Popen[str], *, within_s: float) -> None:
    """
    Raises:
        ProcessLookupError: none of its processes is left.
    """
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        shell.poll()  # or it would stay as a zombie
        os.killpg(shell.pid, 0)
        time.sleep(0.1)


def wait_until_up(shell: subprocess.Popen[str], home: Path, log: Path) -> None:
    """`up` leaves the broker's address and makes the database before anything can be submitted."""
    deadline = time.monotonic() + 60
    while not ((home / "broker-url").exists() and (home / "resnext.db").exists()):
        assert shell.poll() is None
        assert time.monotonic() < deadline, log.read_text() if log.exists() else "no log"
        time.sleep(0.1)


@pytest.mark.timeout(600)
def test_every_command_of_the_readme_works(shell, tmp_path) -> None:
    log = tmp_path / "up.log"
    wait_until_up(shell, tmp_path / "home", log)
    output, _ = shell.communicate("go on\n", timeout=1000)
    assert shell.returncode == 0, f"{output}\n--- up\n{log.read_text()}"
    assert output.endswith("all commands done\n")
    assert ",classified," in (tmp_path / "repository" / "first-try.csv").read_text()


def test_the_readmes_python_works() -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), FLAGS)
    done = subprocess.run(
        [ROOT / ".venv/bin/python", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Guess(label='horse'" in done.stdout


def test_the_readme_has_the_commands_that_are_named_here() -> None:
    assert set(ELSEWHERE) | STAYING <= set(commands())


@pytest.mark.parametrize("command", sorted(ELSEWHERE))
def test_what_is_run_elsewhere_is_there(command) -> None:
    assert (ROOT / ELSEWHERE[command]).exists()
    if command.startswith("make "):
        subprocess.run(["make", "-n", command.split()[1]], cwd=ROOT, check=True)


def test_make_alone_prints_every_target_of_the_readme() -> None:
    done = subprocess.run(["make"], cwd=ROOT, check=True, capture_output=True, text=True)
    targets = {command for command in commands() if command.startswith("make ")}
    assert targets
    for target in targets:
        assert f"  {target} " in done.stdout
