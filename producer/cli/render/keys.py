"""`resnextq keys list`: the keys of the HTTP API, for people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from rich.console import RenderableType

from producer.api.keys import Key
from producer.cli.render.fitted import Column, Fitted
from producer.cli.render.words import words

NAME_CELLS: Final = 12
"""Width to which long names shrink before columns are left out."""


def render_keys(keys: Sequence[Key]) -> RenderableType:
    """A table of keys. On a narrow terminal the last use is left out first, then the owner, then
    the scopes.
    """
    return Fitted(
        [
            Column("id", [words(key.id) for key in keys]),
            Column("name", [words(key.name) for key in keys], least=NAME_CELLS),
            Column("owner", [words(key.owner) for key in keys], least=NAME_CELLS, dropped=2),
            Column("scopes", [words(", ".join(key.scopes)) for key in keys], dropped=1),
            Column(
                "last used (UTC)", [words(_minutes(key.last_used_at)) for key in keys], dropped=3
            ),
            Column(
                "state",
                [
                    words("in use", "green")
                    if key.revoked_at is None
                    else words("revoked", "magenta")
                    for key in keys
                ],
            ),
        ]
    )


def _minutes(moment: datetime | None) -> str:
    return "never" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"
