"""The command `doctor`: prints the checks of `producer.doctor`, and the worker's model checks."""

# ruff: noqa: PLC0415  (a command imports what it needs when it runs, see `main`)
# ruff: noqa: T201  (results go to standard output)

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from itertools import chain
from typing import TYPE_CHECKING, Annotated

import typer

from contract.errors import UnavailableError
from producer.cli.environment import read_settings
from producer.cli.options import JsonOption
from producer.cli.output import show

if TYPE_CHECKING:
    from contract.check import Check


def doctor(
    device: Annotated[
        bool,
        typer.Option(
            "--device", help="Load torch, check the device, and time a GPU's layers (minutes)."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check the installation, and suggest fixes.

    One line per check: ok, warning or failure. It changes and downloads nothing. Exit status 3 if
    something that is needed is not available, otherwise 0.

    With --device it loads torch and shows device, precision and engine. On a GPU it times each
    layer of the network and keeps the result for workers: run it while nothing else uses the GPU.

    Settings: all.

    Example: resnextq doctor --device
    """
    from contract.served import with_served
    from producer import doctor as examination

    settings = read_settings()
    model = (
        import_module("worker.commands.doctor").check_model(
            with_served(settings), measure=device, light=not device
        )
        if find_spec("torch")
        else [examination.without_torch()]
    )
    checks = []
    for check in chain(examination.check_servers(settings), model):
        checks.append(check)
        if not as_json:
            _print_check(check)
    if as_json:
        import json

        print(json.dumps([examination.as_json(check) for check in checks]))
    if any(check.state == "failure" for check in checks):
        raise typer.Exit(UnavailableError.exit_code)


def _print_check(check: Check) -> None:
    from producer.doctor import line, render

    if sys.stdout.isatty():
        show(render(check))
    else:
        print(line(check), flush=True)
