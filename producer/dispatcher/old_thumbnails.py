"""Deletes thumbnails older than `RESNEXT_THUMBNAILS_DAYS`, some per transaction."""

from __future__ import annotations

import time
from typing import Final

from sqlalchemy import Engine

from contract.thumbnails import DELETED_AT_ONCE, delete_old

# Seconds until the next look, if the last one has deleted all old thumbnails.
LOOK_AGAIN_S: Final = 60.0
DAY_S: Final = 86_400.0


class OldThumbnails:
    """Deletes old thumbnails. The dispatcher calls `delete` once per tick."""

    def __init__(self, days: float, at_once: int = DELETED_AT_ONCE) -> None:
        self._older_than_s = days * DAY_S
        self._at_once = at_once
        self._due_at = 0.0

    def delete(self, engine: Engine) -> int:
        """Deletes some. Returns their number, usually 0, since it looks only once per minute."""
        if time.monotonic() < self._due_at:
            return 0
        with engine.begin() as connection:
            deleted = delete_old(connection, self._older_than_s, self._at_once)
        if deleted < self._at_once:
            self._due_at = time.monotonic() + LOOK_AGAIN_S
        return deleted
