"""Every process logs one line per record, and a stranger's text cannot start another line."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.log import (
    FORMAT,
    LISTENER,
    MOST_BYTES,
    LineFormatter,
    Listener,
    StandardError,
    in_one_line,
)
from worker.embedded.service import Messages

ROOT = Path(__file__).parents[3]
LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (?:DEBUG|INFO|WARNING|ERROR) [\w.]+: .*")
FORGED = "2026-01-01 00:00:00,000 ERROR worker.main: all is lost"
PROCESSES = ("contract", "migrations", "producer", "resnext", "worker")


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """Logs to standard error, as our processes do."""
    logger = logging.getLogger("some.module")
    handler = StandardError()
    handler.setFormatter(LineFormatter(FORMAT))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield logger
    logger.removeHandler(handler)


@pytest.mark.parametrize("separator", ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x85", "\u2028"])
def test_a_message_is_one_line_whatever_it_contains(logger, capsys, separator) -> None:
    logger.info("server says %s", f"no{separator}{FORGED}")
    (line,) = capsys.readouterr().err.splitlines()
    assert LINE.fullmatch(line)
    assert "INFO some.module: server says no\\" in line


def test_a_logged_text_cannot_control_a_terminal() -> None:
    shown = LineFormatter(FORMAT).format(record("\x1b[2J\x07\u202egnp.exe\udc80é"))
    assert shown.endswith(r" some.module: \x1b[2J\x07\u202egnp.exe\udc80é")


def test_further_lines_of_a_record_are_indented(logger, capsys) -> None:
    try:
        int(f"no\n{FORGED}")
    except ValueError as error:
        error.add_note(f"{FORGED}\n{FORGED}\r{FORGED}")
        logger.exception("It failed: %s", "why")
    first, *below = capsys.readouterr().err.splitlines()
    assert LINE.fullmatch(first)
    assert below[0] == "  Traceback (most recent call last):"
    assert f"  {FORGED}\\r{FORGED}" in below
    assert all(line.startswith("  ") for line in below)


@settings(deadline=None)
@given(st.text())
def test_a_text_put_into_one_line_loses_nothing(text) -> None:
    line = in_one_line(text)
    assert line.isprintable()
    if "\\" not in text:
        assert line.encode("latin-1", "backslashreplace").decode("unicode_escape") == text


def test_logging_is_set_up_in_one_place() -> None:
    modules = [path for package in PROCESSES for path in (ROOT / package).rglob("*.py")]
    setting_up = [path for path in modules if "basicConfig" in path.read_text()]
    assert setting_up == [ROOT / "contract" / "log.py"]


PROCESS = """
import logging
from contract.log import log_lines
log_lines("INFO")
log_lines("DEBUG")
logging.getLogger("some.module").info("downloading\\n%s", "weights")
logging.getLogger("some.module").debug("not heard")
"""


def test_a_parent_process_receives_its_childs_messages(tmp_path: Path) -> None:
    messages = Messages()
    with messages.pipe() as end:
        done = subprocess.run(
            [sys.executable, "-c", PROCESS],
            env=os.environ | {LISTENER: str(end)},
            pass_fds=[end],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
    assert messages.read() == [r"downloading\nweights"]
    assert messages.read() == []
    assert LINE.fullmatch(done.stderr.strip())
    messages.close()
    assert messages.read() == []


def record(message: str) -> logging.LogRecord:
    return logging.LogRecord("some.module", logging.INFO, "", 0, message, (), None)


def test_a_process_does_not_wait_for_a_listener_that_does_not_read() -> None:
    messages = Messages()
    with messages.pipe() as end:
        listener = Listener(end)
        for _ in range(100):
            listener.emit(record("x" * (2 * MOST_BYTES)))
        lines = messages.read()
        assert {len(line) for line in lines} == {MOST_BYTES - 1}, "shortened lines"
        messages.close()
        listener.emit(record("it is not read"))


def test_a_listener_receives_no_python_warnings() -> None:
    messages = Messages()
    with messages.pipe() as end:
        listener = Listener(end)
        warning = record("a library is old")
        warning.name = "py.warnings"
        listener.emit(warning)
        listener.emit(record("hi"))
    assert messages.read() == ["hi"]
    messages.close()
