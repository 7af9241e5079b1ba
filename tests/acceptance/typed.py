"""The commands of a document, as a reader types them, from the first to the last.

They run in one shell, in a copy of the repository with an empty home of its own. What stays in the
foreground is started, and stopped with the shell. What follows it is typed in a second terminal,
which has none of the first one's variables.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
FLAGS: Final = re.DOTALL | re.MULTILINE
STAYING: Final = frozenset({"resnextq up"})
NOT_COPIED = shutil.ignore_patterns(
    ".venv", ".git", ".*_cache", ".hypothesis", ".env", "__pycache__", "build", "*.egg-info"
)
NO_DOWNLOAD: Final = "https_proxy=http://127.0.0.1:9"
"""For `up`: a proxy that takes no connection, as on a machine without a network."""


def console_commands(document: Path) -> list[str]:
    """What follows a `$ ` in its blocks, continued lines joined."""
    blocks = re.findall(r"^```(?:console|sh)\n(.*?)^```", document.read_text(), FLAGS)
    lines = "".join(blocks).replace("\\\n", "").splitlines()
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def plain_commands(document: Path) -> list[str]:
    """The lines of its blocks of commands."""
    return "".join(re.findall(r"^```sh\n(.*?)^```", document.read_text(), FLAGS)).splitlines()


def answers(document: Path, database: Path, job: str) -> list[list[Any]]:
    """The rows of each query of a document, which names the job as JOB."""
    queries = re.findall(r"^```sql\n(.*?)^```", document.read_text(), FLAGS)
    with closing(sqlite3.connect(database)) as opened:
        return [opened.execute(one.replace("'JOB'", f"'{job}'")).fetchall() for one in queries]


@dataclass
class Typed:
    """A shell that types commands; it waits for a line before it types what follows `up`."""

    folder: Path
    shell: subprocess.Popen[str]

    @property
    def repository(self) -> Path:
        return self.folder / "repository"

    @property
    def home(self) -> Path:
        """Of `up`, where nothing names another."""
        return self.folder / ".local" / "share" / "resnext-queue"

    @property
    def log(self) -> Path:
        return self.folder / "up.log"

    def go_on_once_up(self) -> str:
        """`up` leaves the broker's address and makes the database before anything can be submitted.
        All that the shell prints until it ends, which it does at the first command that fails.
        """
        deadline = time.monotonic() + 60
        while not ((self.home / "broker-url").exists() and (self.home / "resnext.db").exists()):
            assert self.shell.poll() is None, self.shell.communicate()
            assert time.monotonic() < deadline, self.log.read_text() if self.log.exists() else ""
            time.sleep(0.1)
        output, _ = self.shell.communicate("go on\n", timeout=1000)
        assert self.shell.returncode == 0, f"{output}\n--- up\n{self.log.read_text()}"
        return output


@contextmanager
def typing(
    commands: list[str], folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Typed]:
    """Everything that the commands start ends with the block."""
    repository = folder / "repository"
    shutil.copytree(ROOT, repository, ignore=NOT_COPIED)
    (repository / ".venv").symlink_to(ROOT / ".venv")
    theirs = {
        name: value
        for name, value in os.environ.items()
        if name != "VIRTUAL_ENV" and not name.startswith(("RESNEXT_", "XDG_"))
    }
    ours = {"HOME": str(folder), "PIP_DISABLE_PIP_VERSION_CHECK": "1", "RESNEXT_FLOWER_PORT": "0"}
    shell = subprocess.Popen(
        ["bash", "-c", _script(commands, folder / "up.log")],
        cwd=repository,
        env=theirs | ours | dict(environment or {}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    yield Typed(folder, shell)
    _stop(shell)


def _script(commands: list[str], log: Path) -> str:
    """The commands as one program of the shell, which stops at the first that fails."""
    lines = ["set -eu", "path=$PATH"]
    for command in commands:
        lines.append(f"echo {shlex.quote(f'$ {command}')} >&2")
        if command in STAYING:
            lines += [f"{NO_DOWNLOAD} {command} >{shlex.quote(str(log))} 2>&1 &", "read -r _"]
            lines.append('PATH=$path; unset "${!RESNEXT_@}"')
        else:
            lines.append(command)
    return "\n".join([*lines, "echo all commands done"])


def _stop(shell: subprocess.Popen[str]) -> None:
    """SIGTERM to all that the shell has started, `up` among it, and wait for the last of them."""
    with suppress(ProcessLookupError):
        os.killpg(shell.pid, signal.SIGTERM)
        _wait_for_group(shell, within_s=60)
        os.killpg(shell.pid, signal.SIGKILL)
    shell.communicate()


def _wait_for_group(shell: subprocess.Popen[str], *, within_s: float) -> None:
    """
    Raises:
        ProcessLookupError: none of its processes is left.
    """
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        shell.poll()  # or it would stay as a zombie
        os.killpg(shell.pid, 0)
        time.sleep(0.1)
