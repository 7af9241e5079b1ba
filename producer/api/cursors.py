"""Cursors: where a page ended, as a text that nobody should read more into."""

from __future__ import annotations

import base64
from contextlib import suppress

from producer.api.problems import Refused

MOST_CHARS = 64


def cursor_of(number: int) -> str:
    return base64.urlsafe_b64encode(str(number).encode()).decode().rstrip("=")


def number_of(cursor: str) -> int:
    """
    Raises:
        Refused: it is none of ours.
    """
    text = b""
    with suppress(ValueError):
        padded = cursor[:MOST_CHARS] + "=" * (-len(cursor) % 4)
        text = base64.b64decode(padded, b"-_", validate=True)
    if not text.isdigit():
        raise Refused(422, f"cursor: {cursor[:MOST_CHARS]!r} is no cursor of this API.")
    return int(text)
