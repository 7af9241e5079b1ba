"""How every process logs: a line of text for each record, on standard error.

Each command calls `log_lines` once, when it begins. Where `resnextq up` has started the process,
it hears the messages over a pipe as well.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
MESSAGE_ALONE: Final = "%(message)s"
LISTENER: Final = "RESNEXTQ_LISTENER"
"""An environment variable: the descriptor of a pipe to whoever started this process."""
INDENT: Final = "  "
MOST_BYTES: Final = 4096
"""Of a line to a listener. A pipe takes as many whole or not at all; see pipe(7)."""


def log_lines(level: str, line_format: str = FORMAT) -> None:
    """Sends records of this level and above to standard error. A second call changes nothing."""
    handlers: list[logging.Handler] = [StandardError()]
    handlers[0].setFormatter(LineFormatter(line_format))
    handlers.extend(_listeners())
    logging.basicConfig(level=level, handlers=handlers)


def in_one_line(text: str) -> str:
    """Escapes what is not printable: line breaks, control characters, marks that turn the
    direction of text. What a stranger wrote then cannot look like a line of ours.
    """
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


def in_lines(text: str) -> str:
    """The same for a text of several lines, which stay apart."""
    return "\n".join(map(in_one_line, text.split("\n")))


class LineFormatter(logging.Formatter):
    """A record as one line. Lines of a traceback follow it, each of them indented."""

    def format(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        record.asctime = self.formatTime(record, self.datefmt)
        return "\n".join([in_one_line(self.formatMessage(record)), *self._below(record)])

    def _below(self, record: logging.LogRecord) -> Iterator[str]:
        texts = []
        if record.exc_info:
            texts.append(self.formatException(record.exc_info))
        if record.stack_info:
            texts.append(self.formatStack(record.stack_info))
        for text in texts:
            yield from (INDENT + in_one_line(line) for line in text.split("\n"))


class StandardError(logging.Handler):
    """The standard error of the moment, which a progress bar may have taken over."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(f"{self.format(record)}\n")
            sys.stderr.flush()
        except Exception:  # noqa: BLE001  (as each handler of Python's does)
            self.handleError(record)


class Listener(logging.Handler):
    """Writes messages into a pipe. It drops them where nobody reads, and never waits."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(LineFormatter(MESSAGE_ALONE))
        os.set_inheritable(descriptor, False)  # noqa: FBT003
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record).partition("\n")[0].encode(errors="backslashreplace")
        with suppress(OSError):
            os.write(self._descriptor, line[: MOST_BYTES - 1] + b"\n")


def _listeners() -> Iterator[Listener]:
    descriptor = os.environ.pop(LISTENER, "")
    if descriptor.isdecimal():
        yield Listener(int(descriptor))
