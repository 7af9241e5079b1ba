"""The commands about keys of the HTTP API: create, list, revoke. See `producer.cli.main`."""

# ruff: noqa: PLC0415  (a command imports what it needs when it runs, see `main`)
# ruff: noqa: T201  (results go to standard output)

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from producer.cli.environment import open_database, read_settings
from producer.cli.options import JsonOption
from producer.cli.output import show, tell


class Scope(StrEnum):
    """What `--scope` takes."""

    read = "read"
    submit = "submit"


def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the key is for.")],
    scope: Annotated[
        list[Scope] | None,
        typer.Option(
            metavar="read|submit",
            help="read: read jobs and results; submit: everything else. May be repeated. Default: "
            "both.",
        ),
    ] = None,
    owner: Annotated[
        str | None,
        typer.Option(metavar="OWNER", help="Owner of the jobs that it submits. Default: NAME."),
    ] = None,
) -> None:
    """Create a key for the HTTP API, and print it. It cannot be shown again.

    Settings: RESNEXT_DATABASE_URL.

    Example: resnextq keys create airflow --scope read --scope submit
    """
    from producer.api.keys import SCOPES, create_key

    scopes = [one.value for one in scope] if scope else list(SCOPES)
    with open_database(read_settings()) as engine:
        print(create_key(engine, name, scopes, owner or name), flush=True)
    tell("Keep it: only its digest is stored. Send it as `Authorization: Bearer KEY`.")


def list_all(as_json: JsonOption = False) -> None:
    """List the keys of the HTTP API, including revoked ones. Secrets are not stored.

    Settings: RESNEXT_DATABASE_URL.

    Example: resnextq keys list
    """
    from contract.database.engine import reading
    from producer.api.keys import list_keys

    with open_database(read_settings()) as engine, reading(engine) as connection:
        keys = list_keys(connection)
    if as_json:
        import json

        print(json.dumps([_shape(key) for key in keys]))
    elif keys:
        from producer.cli.render.keys import render_keys

        show(render_keys(keys))
    else:
        tell("There are no keys yet; `resnextq keys create NAME` creates one.")


def revoke(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Its id, or its name.")],
) -> None:
    """Revoke a key. It stops working within five seconds.

    Settings: RESNEXT_DATABASE_URL.

    Example: resnextq keys revoke airflow
    """
    from producer.api.keys import revoke_key

    with open_database(read_settings()) as engine:
        revoked = revoke_key(engine, key)
    tell(f"key {revoked.id} ({revoked.name}) was revoked")


def _shape(key: Any) -> dict[str, Any]:  # noqa: ANN401  (producer.api.keys.Key)
    from contract.database.clock import iso

    times = ("created_at", "last_used_at", "revoked_at")
    return {
        "id": key.id,
        "name": key.name,
        "owner": key.owner,
        "scopes": list(key.scopes),
    } | {name: None if (at := getattr(key, name)) is None else iso(at) for name in times}
