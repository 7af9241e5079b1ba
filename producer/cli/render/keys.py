"""`resnextq keys list`: the keys of the HTTP API, for people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import RenderableType
from rich.table import Table

from producer.api.keys import Key
from producer.cli.render.words import words


def render_keys(keys: Sequence[Key]) -> RenderableType:
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("id", no_wrap=True)
    table.add_column("name", overflow="fold")
    table.add_column("owner", overflow="fold")
    table.add_column("scopes")
    table.add_column("last used (UTC)", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for key in keys:
        state = words("in use", "green") if key.revoked_at is None else words("revoked", "magenta")
        scopes, used = ", ".join(key.scopes), _minutes(key.last_used_at)
        table.add_row(key.id, words(key.name), words(key.owner), scopes, used, state)
    return table


def _minutes(moment: datetime | None) -> str:
    return "never" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"
