"""How a benchmark talks to a process that it started: questions and answers, as lines of JSON.

`Child` asks, and `answer_questions` runs in the child. A pipe connects the two. It closes when the
parent ends, for whatever reason, and then the child ends, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

# `benchmarks` is imported from here, whatever the current folder.
ROOT = Path(__file__).parents[2]
END_WITHIN_S = 60.0


class Child:
    """Owns the process, from its start to the end of the `with` block."""

    def __init__(
        self, program: str, *options: str, log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        """`program` is the name of a module, such as `benchmarks.rig.web`."""
        self._program = program
        self.log = log
        command = [sys.executable, "-m", program, *options]
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command,
                env={**(environment or os.environ), "PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,  # we handle Ctrl-C
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def ask(self, **question: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `read` reports it better
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        return self.read()

    def read(self) -> dict[str, Any]:
        """Reads the child's next answer. Skips other lines, which libraries may print.

        Raises:
            RuntimeError: the child has ended.
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with contextlib.suppress(ValueError):
                answer: dict[str, Any] = json.loads(line)
                return answer
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
        raise RuntimeError(f"{self._program} has ended:\n{tail}")

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def answer_questions(answer: Callable[..., Mapping[str, Any]]) -> None:
    """Runs in the child, until the parent ends or has no more questions."""
    for line in sys.stdin:
        say(answer(**json.loads(line)))


def say(answer: Mapping[str, Any]) -> None:
    print(json.dumps(answer), flush=True)
