"""The program in odd surroundings: it ends with one sentence and a documented status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.terminal import on_a_terminal

ROOT = Path(__file__).parents[3]
PROGRAM = (sys.executable, "-m", "producer.cli")


def run(shell: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a line of shell, in which $@ stands for the program."""
    return subprocess.run(
        ["bash", "-c", shell, "bash", *PROGRAM],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def home(tmp_path: Path, sqlite_database: str) -> dict[str, str]:
    """Environment variables for a database with one job, whose name is not ASCII."""
    variables = {"RESNEXT_DATABASE_URL": sqlite_database}
    submitted = run(
        '"$@" submit http://a.org/1 --name "gr\u00fc\u00dfe \u2603"', tmp_path, **variables
    )
    assert submitted.returncode == 0, submitted.stderr
    return variables


@pytest.mark.parametrize("command", ["up", "dispatch", "serve", "list"])
def test_an_env_file_that_is_not_utf_8_gives_one_sentence(tmp_path: Path, command: str) -> None:
    (tmp_path / ".env").write_bytes(b"# gr\xfc\xdfe\n")
    done = run(f'"$@" {command}', tmp_path)
    assert (done.returncode, done.stderr) == (
        2, "resnextq: The file .env is not UTF-8: its byte 5 is 0xfc. Save it as UTF-8.\n"
    )  # fmt: skip


@pytest.mark.parametrize("command", ["list", "list --json", "status last", "--help", "--version"])
def test_a_closed_standard_output_gives_one_sentence(tmp_path, home, command) -> None:
    done = run(f'"$@" {command} >&-', tmp_path, **home)
    assert (done.returncode, done.stderr) == (3, "resnextq: standard output: Bad file descriptor\n")


def test_a_closed_standard_input_counts_as_empty(tmp_path, home) -> None:
    done = run('"$@" submit - <&-', tmp_path, **home)
    assert done.returncode == 2
    assert done.stderr == "resnextq: The sources contain no URI, so nothing is submitted.\n"


def test_without_standard_error_the_result_is_still_printed(tmp_path, home) -> None:
    done = run('"$@" status last 2>&-', tmp_path, **home)
    assert (done.returncode, done.stderr) == (0, "")
    assert "pending, of 1" in done.stdout


@pytest.mark.parametrize("command", ["list", "status last", "--help"])
def test_an_output_with_another_encoding_gets_what_it_can_show(tmp_path, home, command) -> None:
    done = run(f'"$@" {command}', tmp_path, PYTHONIOENCODING="ascii", **home)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert command == "--help" or "gr\\xfc\\xdfe \\u2603" in done.stdout


NO_LOCALE = {"LC_ALL": "", "LANG": "", "LC_CTYPE": "C.UTF-8"}


@pytest.mark.parametrize("variable", ["LANG", "LC_ALL"])
@pytest.mark.parametrize("command", ["list", "status last", "--help", "submit --help"])
def test_a_terminal_of_the_c_locale_gets_ascii_and_a_pipe_the_letters(
    tmp_path, home, variable, command
) -> None:
    in_c_locale = NO_LOCALE | {"PYTHONPATH": str(ROOT), variable: "C"} | home
    shown = on_a_terminal([*PROGRAM, *command.split()], in_c_locale)
    assert shown.isascii()
    assert "--help" in command or "gr\\xfc\\xdfe \\u2603" in shown
    piped = run(f'"$@" {command}', tmp_path, **in_c_locale).stdout
    assert "--help" in command or "grüße \u2603" in piped


@pytest.mark.parametrize("locale", [{}, {"LANG": "C.UTF-8"}, {"LANG": "de_DE.UTF-8"}])
def test_a_terminal_of_another_locale_gets_the_letters(home, locale) -> None:
    shown = on_a_terminal([*PROGRAM, "status", "last"], NO_LOCALE | home | locale)
    assert "─ job " in shown
    assert "grüße \u2603" in shown


TAB = {"_RESNEXTQ_COMPLETE": "complete_bash", "COMP_CWORD": "2", "COMP_WORDS": "resnextq status "}


@pytest.mark.parametrize(("module", "asked"), [("typer", {}), ("sqlalchemy", TAB)])
def test_a_ctrl_c_while_modules_load_prints_no_traceback(tmp_path, module, asked) -> None:
    """During a completion, until its answer is printed."""
    (tmp_path / f"{module}.py").write_text(
        "import sys, time\nprint('loading', flush=True)\ntime.sleep(300)\n"
    )
    process = subprocess.Popen(
        [*PROGRAM, "list"],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"} | asked,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "loading\n"
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=300)
    assert (process.returncode, told) == (130, "")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            "PermissionError(13, 'Permission denied', '/home/ann/x')",
            "/home/ann/x: Permission denied. ",
        ),
        ("OSError(28, 'No space left on device', '/full/x')", "/full/x: No space left on device. "),
        ("OSError(28, 'No space left on device')", "standard output: No space left on device"),
    ],
)
def test_a_file_that_cannot_be_used_gives_one_sentence(tmp_path, error, words) -> None:
    code = f"""
import sys
from producer.cli import jobs
from producer.cli.main import main

def fail(*_):
    raise {error}

jobs.read_settings = fail
sys.argv = ["resnextq", "list"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith(f"resnextq: {words}")
    assert len(done.stderr.splitlines()) == 1
