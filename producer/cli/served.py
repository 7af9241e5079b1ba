"""The commands about workers and models. `producer.cli.main` registers them."""

# ruff: noqa: PLC0415  (a command imports what it needs when it runs, see `main`)
# ruff: noqa: T201  (results go to standard output)

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from producer.cli.environment import open_database, read_settings
from producer.cli.options import JsonOption
from producer.cli.output import show, tell

if TYPE_CHECKING:
    from rich.console import RenderableType
    from sqlalchemy import Connection

    from producer.jobs.served import Model, Worker

T = TypeVar("T")


def workers(as_json: JsonOption = False) -> None:
    """List running workers: queue, device, images/s, and since when they run.

    Settings: RESNEXT_DATABASE_URL, RESNEXT_LEASE_S.

    Example: resnextq workers
    """
    from producer.jobs import served

    def table(found: list[Worker]) -> RenderableType:
        from producer.cli.render.served import render_workers

        return render_workers(found)

    _show(served.workers, served.workers_as_json, table, as_json=as_json,
          nothing="No worker is running; start one with `resnextq worker`.")  # fmt: skip


def models(as_json: JsonOption = False) -> None:
    """List models that jobs need or workers serve, with the number of workers for each.

    Settings: RESNEXT_DATABASE_URL, RESNEXT_LEASE_S.

    Example: resnextq models --json
    """
    from producer.jobs import served

    def table(found: list[Model]) -> RenderableType:
        from producer.cli.render.served import render_models

        return render_models(found)

    _show(served.models, served.models_as_json, table, as_json=as_json,
          nothing="No job has asked for a model yet; `resnextq submit` creates one.")  # fmt: skip


def _show(
    read: Callable[[Connection, float], list[T]],
    shape: Callable[[list[T]], list[dict[str, Any]]],
    render: Callable[[list[T]], RenderableType],
    *,
    as_json: bool,
    nothing: str,
) -> None:
    """Prints what `read` finds, as JSON or as a table, or the text `nothing`. JSON needs no
    rich.
    """
    from contract.database.engine import reading

    settings = read_settings()
    with open_database(settings) as engine, reading(engine) as connection:
        found = read(connection, settings.lease_s)
    if as_json:
        import json

        print(json.dumps(shape(found)))
    elif found:
        show(render(found))
    else:
        tell(nothing)
