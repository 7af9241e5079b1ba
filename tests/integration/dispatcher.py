"""The dispatcher as a process that tests start and stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contract.settings import Settings
from tests.wait import WITHIN_S, until

RESNEXTQ = Path(sys.executable).with_name("resnextq")


class Dispatch:
    """A `resnextq dispatch` process and its log."""

    def __init__(self, settings: Settings, log: Path, **variables: str) -> None:
        self.log = log
        environment = {
            "RESNEXT_BROKER_URL": settings.broker(),
            "RESNEXT_DATABASE_URL": settings.database(),
            "RESNEXT_DISPATCH_INTERVAL_S": "0.02",
        }
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [RESNEXTQ, "dispatch"],
                env=os.environ | environment | {f"RESNEXT_{k}": v for k, v in variables.items()},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def said(self) -> str:
        return self.log.read_text()

    def await_words(self, words: str) -> None:
        until(lambda: words in self.said or self.process.poll() is not None, lambda: self.said)
        assert words in self.said

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(WITHIN_S)


@contextmanager
def leading(settings: Settings, log: Path, **variables: str) -> Iterator[Dispatch]:
    """Run a dispatcher that leads, and kill it at the end."""
    started = Dispatch(settings, log, **variables)
    try:
        started.await_words(" leading as ")
        yield started
    finally:
        started.process.kill()
        started.process.wait()
