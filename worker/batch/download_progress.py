"""Shows the progress of a download of weights on standard error: a bar on a terminal, or lines."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Final, Self

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from contract.terminal import make_console

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES: Final = 10.0
_MEGABYTE: Final = 1_000_000


class DownloadProgress:
    """Call it with the bytes so far and the total. If it is never called, it shows nothing."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._line_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done_bytes: int, total_bytes: int | None) -> None:
        if sys.stderr.isatty():
            self._draw(done_bytes, total_bytes)
        elif time.monotonic() >= self._line_at or done_bytes == total_bytes:
            self._line_at = time.monotonic() + SECONDS_BETWEEN_LINES
            total = "?" if total_bytes is None else f"{total_bytes / _MEGABYTE:.0f}"
            log.info("Downloading weights: %.0f of %s MB", done_bytes / _MEGABYTE, total)

    def _draw(self, done_bytes: int, total_bytes: int | None) -> None:
        if self._bar is None:
            self._bar = Progress(
                "Weights",
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=make_console(stderr=True),
            )
            self._bar.add_task("weights")
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done_bytes, total=total_bytes)
