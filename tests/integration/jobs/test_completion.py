"""Tab completion, with the protocols of bash, zsh and fish."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.settled import Answers, make_job

RESNEXTQ = Path(sys.executable).with_name("resnextq")
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def complete(shell: str, database_url: str, line: str) -> str:
    words = line.split(" ")
    asked = {
        "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
        "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    asked |= {"_RESNEXTQ_COMPLETE": f"complete_{shell}", "RESNEXT_DATABASE_URL": database_url}
    done = subprocess.run(
        [RESNEXTQ], env=os.environ | asked, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_tab_completes_jobs_by_id_and_name(shell: str, engine: Engine, database_url: str) -> None:
    older, newer = (make_job(engine, Answers(name=name)) for name in ("pets", "May crawl"))
    found = complete(shell, database_url, "resnextq status ")
    for text in (older, newer, "pets", "May\\ crawl" if shell == "bash" else "May crawl", "last"):
        assert text in found
    found = complete(shell, database_url, f"resnextq cancel {newer[:15]}")
    assert newer in found
    found = complete(shell, database_url, "resnextq results p")
    assert ("pets" in found, newer in found) == (True, False)


STRANGE = ("[/] [red]x[/red]", "two\nlines", "$(touch made)", "it's", "x" * 300, "`touch made`")


@on_sqlite
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_job_of_any_name_is_a_candidate_on_a_line_of_its_own(
    shell: str, engine: Engine, database_url: str
) -> None:
    ids = [make_job(engine, Answers(name=name)) for name in STRANGE]
    found = complete(shell, database_url, "resnextq status ").splitlines()
    beginnings = {"zsh": '"', "bash": "", "fish": ""}[shell]
    lines = [line.removeprefix("_arguments '*: :((") for line in found]
    candidates = [line.removeprefix(beginnings).partition("\t")[0][:16] for line in lines]
    assert set(ids) <= set(candidates)
    assert len(lines) == 1 + len(ids) + 2  # `last`, the ids, and the two names that are harmless


@on_sqlite
def test_bash_takes_a_name_with_spaces_as_one_word(engine: Engine, database_url: str) -> None:
    make_job(engine, Answers(name="May crawl"))
    source = subprocess.run(
        [RESNEXTQ], env=os.environ | {"_RESNEXTQ_COMPLETE": "source_bash"}, capture_output=True,
        text=True, check=True,
    ).stdout  # fmt: skip
    typed = 'COMP_WORDS=(resnextq status M); COMP_CWORD=2; _resnextq_completion "$PROGRAM"'
    done = subprocess.run(
        ["bash", "-c", f'{source}\n{typed}\nprintf "%s\\n" "${{COMPREPLY[@]}}"'],
        env=os.environ | {"PROGRAM": str(RESNEXTQ), "RESNEXT_DATABASE_URL": database_url},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["May\\ crawl"]


@on_sqlite
def test_tab_completes_codes_and_models(database_url: str, engine: Engine) -> None:
    assert "not_an_image" in complete("bash", database_url, "resnextq retry last --error not")
    found = complete("bash", database_url, "resnextq submit --model resnext50")
    assert found.strip() == "resnext50_32x4d"


@pytest.mark.parametrize("wrong", ["sqlite:////nowhere/at/all.db", "mysql://a/b"])
def test_without_a_readable_database_completion_is_silent(wrong: str) -> None:
    assert complete("bash", wrong, "resnextq status ").strip() == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_tab_completes_the_error_codes_of_the_job(
    shell: str, engine: Engine, database_url: str
) -> None:
    job = make_job(engine, Answers(failed=range(9)))
    found = complete(shell, database_url, f"resnextq retry {job} --error http_")
    assert ("http_404" in found, "http_503" in found) == (True, False)
    found = complete(shell, database_url, f"resnextq retry {job} --error dn")
    assert "dns" in found, "a code that this job has not"
