"""Runs the README's commands in order, as a reader would type them, without any download.

`ELSEWHERE` lists the commands that are not run here, each with the test that runs it. A new
command in the README runs here and must work.
"""

from __future__ import annotations

import re
import subprocess

import pytest

from resnext.spec.catalogue import BUNDLED
from tests.acceptance.typed import FLAGS, ROOT, STAYING, answers, console_commands, typing

README = ROOT / "README.md"
# Another test runs these, or they run the tests.
ELSEWHERE = {
    "make demo": "tests/acceptance/test_demo.py",
    "make setup": "Makefile",
    "make test": "Makefile",
    "cp .env.example .env": "tests/acceptance/test_compose.py",
    "docker compose up --detach --scale worker=4": "tests/acceptance/test_compose.py",
}


@pytest.mark.timeout(600)
def test_every_readme_command_works(tmp_path) -> None:
    commands = [one for one in console_commands(README) if one not in ELSEWHERE]
    with typing(commands, tmp_path) as typed:
        output = typed.go_on_once_up()
        assert output.endswith("all commands done\n")
        assert f"images submitted to {BUNDLED}." in output, "what `up` serves for want of another"
        assert ",classified," in (typed.repository / "first-try.csv").read_text()
        _, failures = answers(README, typed.home / "resnext.db", "")
        assert dict(failures) == {"truncated": 1, "not_an_image": 1}


def test_the_readmes_python_program_works() -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```", README.read_text(), FLAGS)
    done = subprocess.run(
        [ROOT / ".venv/bin/python", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Guess(label='" in done.stdout


def test_the_readme_has_every_command_listed_here() -> None:
    assert set(ELSEWHERE) | STAYING <= set(console_commands(README))


@pytest.mark.parametrize("command", sorted(ELSEWHERE))
def test_commands_run_elsewhere_exist(command) -> None:
    assert (ROOT / ELSEWHERE[command]).exists()
    if command.startswith("make "):
        subprocess.run(["make", "-n", command.split()[1]], cwd=ROOT, check=True)


def test_make_without_a_target_lists_the_readmes_targets() -> None:
    done = subprocess.run(["make"], cwd=ROOT, check=True, capture_output=True, text=True)
    targets = {command for command in console_commands(README) if command.startswith("make ")}
    assert targets
    for target in targets:
        assert f"  {target} " in done.stdout
