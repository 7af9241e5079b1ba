"""Cursors: an opaque text that says where a page ended."""

from __future__ import annotations

import re
from typing import Annotated, Final

from fastapi import Query

from producer.api.problems import Refused

# Numbers of jobs and positions, well within SQL's range.
PATTERN: Final = "^c[0-9]{1,18}$"
SHOWN_CHARS: Final = 64

Cursor = Annotated[
    str | None,
    Query(
        description="`next` of the previous page.",
        json_schema_extra={"anyOf": [{"type": "string", "pattern": PATTERN}, {"type": "null"}]},
    ),
]


def cursor_of(number: int) -> str:
    return f"c{number}"


def number_of(cursor: str) -> int:
    """The number in a cursor.

    Raises:
        Refused: the text is not a cursor.
    """
    if re.fullmatch(PATTERN, cursor) is None:
        raise Refused(422, f"cursor: {cursor[:SHOWN_CHARS]!r} is not a cursor of this API.")
    return int(cursor[1:])
