"""Runs: successive lines of a list that need no closer look, read and passed on as one.

A list of millions of URIs costs what is done for each of them, so most lines are never looked at
alone: one regular expression finds how many of those that follow are plain URIs and nothing else.
`producer.submit.sources` reads by runs, and each other line by itself; `submit` cuts both into
chunks.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from contract.uris import PLAIN

_PLAIN_LINES: Final = re.compile(rf"(?:{PLAIN}(?:\n|\Z))*+".encode())


class Run(NamedTuple):
    """URIs that `contract.uris.refusal` takes at a glance, without ids, a line each."""

    uris: list[str]
    source: str
    line: int
    """Of the first one; from 1."""


def run_at(lines: bytes, at: int) -> tuple[list[str], int]:
    """The plain URIs of the lines from `at` on, up to the first other line, and where that is."""
    match = _PLAIN_LINES.match(lines, at)
    if match is None or match.end() == at:
        return [], at
    uris = match[0].decode().split("\n")
    if not uris[-1]:  # behind the last line's end
        uris.pop()
    return uris, match.end()
