"""Messages break at words on a terminal, and commands stay whole."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from contract.terminal import wrap

NEXT = "next: resnextq status 0b5f0c6a9d3e4f21 --watch"
START = "one: RESNEXT_MODEL=resnext50_32x4d RESNEXT_WEIGHTS=random resnextq worker"


@pytest.mark.parametrize("cells", [20, 40, 60, 80, 120])
@pytest.mark.parametrize(
    "sentence",
    [
        "resnextq: this line is longer than a terminal of sixty cells, so it must be broken",
        "resnextq: no job. `resnextq list` shows all, and `resnextq login` prints a link",
        "  list.csv, line 3: 図書館の写真 図書館の写真 図書館の写真: no scheme; write http://…",
    ],
)
def test_a_sentence_breaks_between_words(sentence: str, cells: int) -> None:
    lines = wrap(sentence, cells).split("\n")
    assert " ".join(line.strip() for line in lines) == sentence.strip()
    assert max(map(cell_len, lines)) <= cells


@pytest.mark.parametrize(
    ("text", "cells", "lines"),
    [
        (f"resnextq: 18 images submitted; {NEXT}", 50, ["resnextq: 18 images submitted;", NEXT]),
        (f"resnextq: done; {NEXT}", 30, ["resnextq: done;", NEXT]),
        (f"resnextq: no worker. Start {START}", 40, ["resnextq: no worker. Start", START]),
        ("run `resnextq db upgrade` now", 20, ["run", "`resnextq db upgrade`", "now"]),
        ("  list.csv, line 3: a: no scheme", 20, ["  list.csv, line 3:", "    a: no scheme"]),
        ("a  name with  two spaces", 18, ["a  name with  two", "spaces"]),
        ("first\nsecond", 60, ["first", "second"]),
        ("a" * 70, 60, ["a" * 70]),
        (" " * 70, 60, [""]),
        ("", 60, [""]),
    ],
)
def test_what_people_copy_stays_whole(text: str, cells: int, lines: list[str]) -> None:
    assert wrap(text, cells).split("\n") == lines
