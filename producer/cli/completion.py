"""What Tab completes besides commands and options: jobs, error codes, models.

A shell runs the program at each Tab. If settings or database cannot be read, the shell gets
nothing: an error message in the middle of the line would not help.
"""

# ruff: noqa: PLC0415  (a command imports what it needs when it runs, see `main`)

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from contract.errors import ResnextQueueError

if TYPE_CHECKING:
    from sqlalchemy import Connection

COMPLETE: Final = "_RESNEXTQ_COMPLETE"
"""A shell sets this variable when it asks for completions. Its value names the shell."""
MOST_JOBS: Final = 200
MEANING_CHARS: Final = 50
"""Length of a description. Typer breaks longer ones, and fish takes each line as a candidate."""
# Shells quote these differently, so a name with one of them is not completed. Its job's id is.
_HARD_TO_QUOTE: Final = re.compile(r"""['"`$\\]""")
_SPLITTING_BASH: Final = re.compile(r"([^\w.,@%+/-])")
Completions = list[tuple[str, str]]
"""Texts, each with a description for shells that show it."""


def jobs(incomplete: str) -> Completions:
    """Ids and names of the newest jobs, and `last`."""

    def read(connection: Connection) -> Iterable[tuple[str, str]]:
        from producer.jobs.listed import Filter, list_jobs

        found = list_jobs(connection, Filter(), MOST_JOBS)
        if found:
            yield "last", f"the newest job, {found[0].id}"
        for job in found:
            yield job.id, f"{job.state}, {job.name or f'{job.total:,} images'}"
        for job in found:
            if job.name and job.name.isprintable() and not _HARD_TO_QUOTE.search(job.name):
                yield _quoted(job.name), f"{job.state}, {job.id}"

    return _read(read, incomplete)


def error_codes(incomplete: str) -> Completions:
    """The codes of the command's job, if it is typed already. Otherwise, and if its images have no
    such code, all codes that have a fixed name.
    """
    from contract.failure import ERROR_CODES

    for word in _typed_words():
        if found := _read(partial(_codes_of, word), incomplete):
            return found
    named = ((code.name, code.cause) for code in ERROR_CODES.values())
    return _beginning(named, incomplete)


def _typed_words() -> list[str]:
    """What may be the command's job. Typer cannot tell while an option lacks its value."""
    line = os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS", "")
    with suppress(ValueError):  # a quote is not closed yet
        pairs = pairwise(["", *shlex.split(line)[2:]])
        return [word for before, word in pairs if not before.startswith("-") and word[:1] != "-"]
    return []


def _codes_of(job: str, connection: Connection) -> Iterable[tuple[str, str]]:
    from contract.failure import describe, is_known
    from producer.jobs.job import find_job

    for code, images in find_job(connection, job).errors.items():
        number = "1 image" if images == 1 else f"{images:,} images"
        yield code, f"{number}: {describe(code).cause}" if is_known(code) else number


def models(incomplete: str) -> Completions:
    from contract.models import MODELS

    return _beginning(((name, "") for name in MODELS), incomplete)


def _read(read: Callable[[Connection], Iterable[tuple[str, str]]], incomplete: str) -> Completions:
    from contract.database.engine import reading
    from producer.cli.environment import open_database, read_settings

    with suppress(ResnextQueueError):
        settings = read_settings()
        with open_database(settings) as engine, reading(engine) as connection:
            return _beginning(read(connection), incomplete)
    return []


def _beginning(texts: Iterable[tuple[str, str]], incomplete: str) -> Completions:
    return [(text, _described(meaning)) for text, meaning in texts if text.startswith(incomplete)]


def _described(meaning: str) -> str:
    """On one line and without markup, because a job's name may be any text."""
    from contract.log import in_one_line

    line = in_one_line(meaning).replace("[", "(").replace("]", ")")
    return line if len(line) <= MEANING_CHARS else f"{line[: MEANING_CHARS - 1]}…"


def _quoted(name: str) -> str:
    """Zsh and fish quote what they insert. Bash inserts it as it is."""
    in_bash = os.environ.get(COMPLETE) == "complete_bash"
    return _SPLITTING_BASH.sub(r"\\\1", name) if in_bash else name
