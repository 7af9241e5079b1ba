"""Measures what a command costs before it does anything: its CPU time beside a bare Typer program.

    python -m benchmarks.stage.cli_startup [--runs N]

Runs each of these N times, in turn: a Typer program of one command with `--help`, `resnextq
--help`, `resnextq status JOB` (with and without `--json`) on a SQLite database with one job, Python
alone, and Python that imports the client, `resnextq`. Prints the user and system CPU time of each
(median and spread), its ratio to the bare program's median in the same run, and the cost of
importing the client with its mark.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESNEXTQ = Path(sys.executable).with_name("resnextq")
HELP_LIMIT = 3.0  # the mark for `resnextq --help`, as a ratio
IMPORT_LIMIT_MS = 150  # the mark for importing the client
CLIENT = Path(__file__).parents[2] / "client"
NOTHING, IMPORT = "Python alone", "Python, import resnextq (the client)"
BARE = '''
import typer

app = typer.Typer()


@app.command()
def hello(name: str) -> None:
    """Say hello."""
    print(f"Hello {name}")


if __name__ == "__main__":
    app()
'''


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20, help="runs of each command")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "bare.py").write_text(BARE)
        environment = os.environ | {
            "RESNEXT_HOME": scratch,
            "RESNEXT_DATABASE_URL": f"sqlite:///{folder / 'resnext.db'}",
            "PYTHONPATH": str(CLIENT),
        }
        commands = make_commands(folder, environment)
        for command in commands.values():  # the first run compiles bytecode
            cpu_s(command, environment)
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(runs):
            for name, command in commands.items():
                times[name].append(cpu_s(command, environment))
    report(times)


def make_commands(folder: Path, environment: dict[str, str]) -> dict[str, list[str]]:
    def output(*arguments: str) -> str:
        done = subprocess.run(
            [RESNEXTQ, *arguments], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    output("db", "upgrade")
    job = output("submit", "http://example.org/cat.jpg")
    resnextq = str(RESNEXTQ)
    return {
        "a bare Typer program --help": [sys.executable, str(folder / "bare.py"), "--help"],
        "resnextq --help": [resnextq, "--help"],
        "resnextq status JOB --json": [resnextq, "status", job, "--json"],
        "resnextq status JOB": [resnextq, "status", job],
        NOTHING: [sys.executable, "-c", "pass"],
        IMPORT: [sys.executable, "-c", "import resnextq"],
    }


def cpu_s(command: list[str], environment: dict[str, str]) -> float:
    """User and system time of one run and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def report(times: dict[str, list[float]]) -> None:
    bare, ours = (statistics.median(seconds) for seconds in list(times.values())[:2])
    table = Table("command", "median CPU ms", "fastest to slowest", "ratio")
    for name, seconds in times.items():
        median = statistics.median(seconds)
        spread = f"{1000 * min(seconds):.0f} to {1000 * max(seconds):.0f}"
        table.add_row(name, f"{1000 * median:.0f}", spread, f"{median / bare:.2f}")
    Console().print(table)
    verdict = "within" if ours <= HELP_LIMIT * bare else "ABOVE"
    print(f"resnextq --help: {ours / bare:.2f} times the bare program, {verdict} {HELP_LIMIT:.0f}")
    import_ms = 1000 * (statistics.median(times[IMPORT]) - statistics.median(times[NOTHING]))
    verdict = "within" if import_ms <= IMPORT_LIMIT_MS else "ABOVE"
    print(f"import of the client: {import_ms:.0f} ms of CPU, {verdict} {IMPORT_LIMIT_MS}")


if __name__ == "__main__":
    main()
