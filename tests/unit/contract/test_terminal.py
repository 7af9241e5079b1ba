"""Messages break at words on a terminal, and commands stay whole."""

from __future__ import annotations

import pytest

from contract.terminal import wrap

NEXT = "next: resnextq status 0b5f0c6a9d3e4f21 --watch"


@pytest.mark.parametrize("cells", [20, 40, 60, 80, 120])
def test_a_sentence_breaks_between_words(cells: int) -> None:
    sentence = "resnextq: this line is longer than a terminal of sixty cells, so it must be broken"
    lines = wrap(sentence, cells).split("\n")
    assert " ".join(lines) == sentence
    assert max(map(len, lines)) <= cells


@pytest.mark.parametrize(
    ("text", "cells", "lines"),
    [
        (f"resnextq: 18 images submitted; {NEXT}", 50, ["resnextq: 18 images submitted;", NEXT]),
        (f"resnextq: done; {NEXT}", 30, ["resnextq: done;", NEXT]),
        ("run `resnextq db upgrade` now", 20, ["run", "`resnextq db upgrade`", "now"]),
        ("  list.csv, line 3: a: no scheme", 20, ["  list.csv, line 3:", "    a: no scheme"]),
        ("first\nsecond", 60, ["first", "second"]),
        ("a" * 70, 60, ["a" * 70]),
        ("", 60, [""]),
    ],
)
def test_what_people_copy_stays_whole(text: str, cells: int, lines: list[str]) -> None:
    assert wrap(text, cells).split("\n") == lines
