"""Every command and query of the tutorial works, as a reader types it, without a download.

What is not run here is named below, with the test that runs it: a command that is new in the
tutorial is run, and has to work.
"""

from __future__ import annotations

import re

import pytest

from tests.acceptance.typed import ROOT, answers, plain_commands, typing

TUTORIAL = ROOT / "docs" / "tutorial.md"
# A person's own files.
LIST = "https://example.org/cat.jpg\n"
TABLE = "url,sku\nhttps://example.org/cat.jpg,4711\n"
MADE = {"list-of-urls.txt": LIST, "pictures.csv": TABLE}
OPEN = "sqlite3 ~/.local/share/resnext-queue/resnext.db"
# Where a reader opens the database to type queries, it is copied, and they are asked of the copy:
# a retry changes the answers later.
COPY = (
    "python -c 'import os, sqlite3; "
    'sqlite3.connect(os.path.expanduser("~/.local/share/resnext-queue/resnext.db"))'
    """.backup(sqlite3.connect("copy.db"))'"""
)
# These are run by another test, or are what runs this one.
ELSEWHERE = {
    "make setup": "Makefile",
    "export RESNEXT_BROKER_URL=redis://:PASSWORD@redis.example:6379/0": (
        "tests/acceptance/installation.py"
    ),
    "export RESNEXT_DATABASE_URL=postgresql://USER:PASSWORD@postgres.example/images": (
        "tests/acceptance/installation.py"
    ),
    "resnextq db upgrade": "tests/integration/contract/test_database.py",
    "resnextq dispatch": "tests/acceptance/installation.py",
    "resnextq worker": "tests/acceptance/installation.py",
}


@pytest.mark.timeout(600)
def test_every_command_and_query_of_the_tutorial_works(tmp_path) -> None:
    """Where the model can be chosen, a reader chooses the one that needs no download."""
    make = [f"printf '%s' '{text}' > {name}" for name, text in MADE.items()]
    typed_here = [one for one in plain_commands(TUTORIAL) if one not in ELSEWHERE]
    commands = [COPY if one == OPEN else one for one in typed_here]
    with typing([*make, *commands], tmp_path) as typed:
        output = typed.go_on_once_up()
        assert output.endswith("all commands done\n")
        ((classified, failed),) = re.findall(
            r"(\d+) classified, (\d+) failed", TUTORIAL.read_text()
        )
        assert f"{classified} classified, {failed} failed" in output
        assert "http://127.0.0.1:" in output, "the link of `login`"
        assert (typed.repository / "first-job.html").stat().st_size > 10_000
        (job,) = set(re.findall(r"job (\w{16}) ─+╮\n│ name +first job", output))
        rows = answers(TUTORIAL, typed.repository / "copy.db", job)
    assert list(map(len, rows)) == [5, int(failed), 5]


def test_the_tutorial_has_the_commands_that_are_named_here() -> None:
    assert set(ELSEWHERE) | {OPEN} <= set(plain_commands(TUTORIAL))


@pytest.mark.parametrize("command", sorted(ELSEWHERE))
def test_what_is_run_elsewhere_is_there(command) -> None:
    assert (ROOT / ELSEWHERE[command]).exists()
