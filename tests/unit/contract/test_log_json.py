"""A JSON log: one object per line, whatever a record contains and wherever it comes from."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.log import JsonFormatter, in_one_line, log_about
from tests.servers.terminal import HOSTILE

ROOT = Path(__file__).parents[3]
FORGED = '{"time": "2026-01-01T00:00:00.000Z", "level": "ERROR", "message": "all is lost"}'


def record(message: str, *arguments: Any, **added: Any) -> logging.LogRecord:
    made = logging.LogRecord("some.module", logging.INFO, "", 0, message, arguments, None)
    vars(made).update(added)
    return made


def shown(message: str, *arguments: Any, **added: Any) -> dict[str, Any]:
    (line,) = JsonFormatter().format(record(message, *arguments, **added)).splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def test_a_line_has_the_time_the_level_the_logger_and_the_message() -> None:
    line = shown("%d of %d", 1, 2)
    moment = datetime.fromisoformat(line.pop("time"))
    assert moment.utcoffset() is not None
    assert not moment.utcoffset()
    assert line == {"level": "INFO", "logger": "some.module", "message": "1 of 2"}


@settings(deadline=None)
@given(st.text(), st.text())
def test_whatever_is_logged_becomes_one_line_of_ascii_and_loses_nothing(message, job) -> None:
    line = JsonFormatter().format(record("%s", message, job=job))
    assert line.isascii()
    assert line.isprintable()
    found = json.loads(line)
    assert found["message"] == in_one_line(message)
    assert found["job"] == in_one_line(job)


def test_a_message_read_from_the_json_cannot_control_a_terminal() -> None:
    line = shown("%s", f"no\n{FORGED}\r{HOSTILE}", job=HOSTILE)
    assert line["message"].isprintable()
    assert line["job"].isprintable()


def test_a_traceback_is_one_field_whose_lines_are_escaped() -> None:
    try:
        int(f"no\n{FORGED}{HOSTILE}")
    except ValueError:
        line = shown("It failed", exc_info=sys.exc_info())
    assert line["message"] == "It failed"
    first, *others = line["traceback"].split("\n")
    assert first == "Traceback (most recent call last):"
    assert all(one.isprintable() for one in others)


def test_only_lines_within_a_piece_of_work_carry_its_fields() -> None:
    with log_about(job="a", chunk=3), log_about(attempt=2):
        line = shown("hi")
        assert {name: line.get(name) for name in ("job", "chunk", "attempt")} == {
            "job": "a",
            "chunk": 3,
            "attempt": 2,
        }
        assert shown("hi", job="b")["job"] == "b", "a record's own fields win"
        other: list[dict[str, Any]] = []
        thread = threading.Thread(target=lambda: other.append(shown("hi")))
        thread.start()
        thread.join()
        assert "job" not in other[0], "another thread does other work"
    assert set(shown("hi")) == {"time", "level", "logger", "message"}


def test_a_record_with_wrong_arguments_is_not_lost() -> None:
    assert shown("%d of %d", "one")["message"] == "%d of %d ('one',)"


PROCESS = f"""
import sys, threading, warnings
from types import SimpleNamespace
from contract.log import log_as_set, name_worker
log_as_set(SimpleNamespace(
    log_level="INFO", log_format=sys.argv[1], log_file_bytes=10**6, log_files=1))
name_worker("host-1-ab")
hostile = "no\\n" + {FORGED!r} + {HOSTILE!r}
warnings.warn(hostile)
def fail(): raise ValueError(hostile)
thread = threading.Thread(target=fail, name="t")
thread.start()
thread.join()
class Odd:
    def __del__(self): fail()
Odd()
fail()
"""


@pytest.mark.parametrize("form", ["json", "text"])
def test_warnings_and_uncaught_errors_are_lines_like_all_others(form: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROCESS, form],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert all(line.isprintable() for line in lines)
    assert not any(line.startswith(FORGED) for line in lines)
    told = ("UserWarning", "The thread t ends", "Odd.__del__", "This process ends")
    if form == "json":
        found = [json.loads(line) for line in lines]
        assert [line["worker"] for line in found] == ["host-1-ab"] * 4
        assert ["traceback" in line for line in found] == [False, True, True, True]
        texts = [str(line) for line in found]
    else:
        texts = [line for line in lines if not line.startswith("  ")]
    assert len(texts) == 4
    for words, text in zip(told, texts, strict=True):
        assert words in text
