"""How every process logs: one line per record, on standard error, as text or as JSON.

Each command calls `log_as_set` or `log_lines` once, when it begins. If `resnextq up` started the
process, `up` also receives the messages over a pipe, and the lines go to a file of limited size
(`contract.log_file`).
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol

from contract.log_file import FILE, LogFile

FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
MESSAGE_ALONE: Final = "%(message)s"
LISTENER: Final = "RESNEXTQ_LISTENER"
"""An environment variable: the descriptor of a pipe to the process that started this one."""
INDENT: Final = "  "
MOST_BYTES: Final = 4096
"""Longest line to a listener. A pipe takes so many bytes whole or not at all; see pipe(7)."""
FIELDS: Final = ("job", "chunk", "generation", "attempt", "worker")
"""Fields of a JSON line that name its work, if it has any. See `log_about` and `name_worker`."""

WARNINGS: Final = "py.warnings"
"""Python's logger for the module `warnings`."""

log = logging.getLogger(__name__)
_about: ContextVar[Mapping[str, str | int]] = ContextVar("_about")
_of_process: dict[str, str | int] = {}


class LogSettings(Protocol):
    """The settings of a log; `contract.settings.Settings` has them."""

    @property
    def log_level(self) -> str: ...
    @property
    def log_format(self) -> str: ...
    @property
    def log_file_bytes(self) -> int: ...
    @property
    def log_files(self) -> int: ...


def log_as_set(settings: LogSettings) -> None:
    """Sets up the log of a process that runs until it is stopped. A second call changes nothing."""
    form: logging.Formatter = LineFormatter(FORMAT)
    if settings.log_format == "json":
        form = JsonFormatter()
    path = os.environ.pop(FILE, "")
    file = (
        LogFile(Path(path), most_bytes=settings.log_file_bytes, kept=settings.log_files)
        if path
        else None
    )
    _set_up(settings.log_level, StandardError(file), form)
    _take_the_rest()


def log_in_json() -> None:
    """Sets up a JSON log for a program whose other settings cannot be read."""
    _set_up("INFO", StandardError(), JsonFormatter())
    _take_the_rest()


def log_lines(level: str, line_format: str = FORMAT) -> None:
    """Writes records of this level and above to standard error, as text, for a user's command. A
    second call changes nothing.
    """
    _set_up(level, StandardError(), LineFormatter(line_format))


def _set_up(level: str, output: StandardError, form: logging.Formatter) -> None:
    output.setFormatter(form)
    logging.basicConfig(level=level, handlers=[output, *_listeners()])


def _take_the_rest() -> None:
    """Logs what Python would otherwise write itself, without escaping text from strangers."""
    logging.captureWarnings(True)  # noqa: FBT003
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread
    sys.unraisablehook = _log_unraisable


def writes_json() -> bool:
    """Whether this process logs JSON, so that no other text may come between its lines."""
    return any(isinstance(one.formatter, JsonFormatter) for one in logging.getLogger().handlers)


def write_line(line: str) -> None:
    """Writes a line that is already formatted for this log, without changing it."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, StandardError):
            with handler.lock or nullcontext(), suppress(OSError):
                handler.write(line)


@contextmanager
def log_about(**fields: str | int) -> Iterator[None]:
    """Adds these fields, some of `FIELDS`, to each line that this thread logs meanwhile."""
    token = _about.set({**_about.get({}), **fields})
    try:
        yield
    finally:
        _about.reset(token)


def name_worker(worker: str) -> None:
    """From now on, each line of this process and of the processes it forks names this worker."""
    _of_process["worker"] = worker


def in_one_line(text: str) -> str:
    """Escapes what is not printable: line breaks, control characters, marks that change
    the direction of text. So a stranger's text cannot look like one of our lines.
    """
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


def in_lines(text: str) -> str:
    """Does the same for each line of a text."""
    return "\n".join(map(in_one_line, text.split("\n")))


class LineFormatter(logging.Formatter):
    """Formats a record as one line. The lines of a traceback follow, indented."""

    def format(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        record.asctime = self.formatTime(record, self.datefmt)
        return "\n".join([in_one_line(self.formatMessage(record)), *self._below(record)])

    def _below(self, record: logging.LogRecord) -> Iterator[str]:
        for text in _traces(self, record):
            yield from (INDENT + in_one_line(line) for line in text.split("\n"))


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object in one line of ASCII.

    The message is escaped before it becomes JSON, like a line of text. So it cannot control the
    terminal of a program that reads the JSON and prints the message.
    """

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, str | int] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": in_one_line(_message_of(record)),
        }
        line |= {name: _in_json(value) for name, value in _fields_of(record)}
        if traces := list(_traces(self, record)):
            line["traceback"] = in_lines("\n".join(traces))
        return json.dumps(line)


def _message_of(record: logging.LogRecord) -> str:
    """The record's message, also if another package gave it the wrong arguments."""
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        return f"{record.msg} {record.args!r}"


def _fields_of(record: logging.LogRecord) -> Iterator[tuple[str, Any]]:
    """Fields of the record itself (`extra`), otherwise of the work, otherwise of the process."""
    known = {**_of_process, **_about.get({}), **vars(record)}
    return ((name, known[name]) for name in FIELDS if name in known)


def _in_json(value: object) -> str | int:
    return value if isinstance(value, int) else in_one_line(str(value))


def _traces(formatter: logging.Formatter, record: logging.LogRecord) -> Iterator[str]:
    if record.exc_info:
        yield formatter.formatException(record.exc_info)
    if record.stack_info:
        yield formatter.formatStack(record.stack_info)


class StandardError(logging.Handler):
    """Writes to the current `sys.stderr`, which a progress bar may have replaced."""

    def __init__(self, file: LogFile | None = None) -> None:
        """`file`: the file behind standard error, if `up` started this process."""
        super().__init__()
        self._file = file

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.write(self.format(record))
        except Exception:  # noqa: BLE001  (as Python's own handlers do)
            self.handleError(record)

    def write(self, lines: str) -> None:
        """The caller must hold the handler's lock."""
        if self._file is not None:
            self._file.make_room()
        sys.stderr.write(f"{lines}\n")
        sys.stderr.flush()


class Listener(logging.Handler):
    """Writes messages into a pipe. It never waits, and drops them if no process reads."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(LineFormatter(MESSAGE_ALONE))
        os.set_inheritable(descriptor, False)  # noqa: FBT003
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == WARNINGS:  # for readers of the log, not for the user of `up`
            return
        line = self.format(record).partition("\n")[0].encode(errors="backslashreplace")
        with suppress(OSError):
            os.write(self._descriptor, line[: MOST_BYTES - 1] + b"\n")


def _listeners() -> Iterator[Listener]:
    descriptor = os.environ.pop(LISTENER, "")
    if descriptor.isdecimal():
        yield Listener(int(descriptor))


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Replaces Python's own hook, which writes an error's text without escaping it."""
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        log.critical("This process ends with an error", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(found: threading.ExceptHookArgs) -> None:
    if found.exc_value is not None and not issubclass(found.exc_type, SystemExit):
        name = found.thread.name if found.thread else "?"
        trace = (found.exc_type, found.exc_value, found.exc_traceback)
        log.critical("The thread %s ends with an error", name, exc_info=trace)


def _log_unraisable(found: sys.UnraisableHookArgs) -> None:
    if found.exc_value is not None:
        trace = (found.exc_type, found.exc_value, found.exc_traceback)
        where = found.err_msg or "An error that no code can catch"
        log.error("%s: %r", where, found.object, exc_info=trace)
