"""Keys of the HTTP API: who may read, who may submit.

A key is `rnq_ID_SECRET`. Whoever makes one sees it once. SQL keeps a SHA-256 of the whole: the
secret has 32 random bytes, so nobody can try them all. What somebody sends is found by its id and
compared in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Engine, Row, func, insert, select, update

from contract.database.clock import db_now
from contract.database.engine import reading
from contract.database.tables import api_keys
from contract.errors import UsageError

SCOPES: Final = ("read", "submit")
"""`read` sees all jobs and results; `submit` may also submit, cancel, retry and change jobs."""
PREFIX: Final = "rnq"
SECRET_BYTES: Final = 32
ID_BYTES: Final = 4
MOST_NAME_CHARS: Final = 100
# What is known of a key is looked up again after this: a revoked key works for so long at most.
KEPT_S: Final = 5.0
MOST_KEPT: Final = 10_000
# `last_used_at` is as exact as this, so that reading a job writes nothing.
NOTED_EVERY_S: Final = 60.0


@dataclass(frozen=True, kw_only=True)
class Key:
    """A key as SQL has it, without its secret."""

    id: str
    name: str
    owner: str
    scopes: tuple[str, ...]
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


def create_key(engine: Engine, name: str, scopes: Sequence[str], owner: str) -> str:
    """Makes a key for the jobs of this owner; the only time that it can be seen.

    Raises:
        UsageError: the name or a scope is not such, or a key in use has the name.
    """
    if not (name.isprintable() and 0 < len(name) <= MOST_NAME_CHARS):
        raise UsageError(
            f"The name of a key is {name[:MOST_NAME_CHARS]!r}; it has 1 to {MOST_NAME_CHARS} "
            "printable characters."
        )
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        given = f"{unknown[0]!r}" if unknown else "none"
        raise UsageError(f"The scope of a key is {given}; it is one of: {', '.join(SCOPES)}.")
    key_id = secrets.token_hex(ID_BYTES)
    key = f"{PREFIX}_{key_id}_{secrets.token_urlsafe(SECRET_BYTES)}"
    with engine.begin() as connection:
        if connection.scalar(select(api_keys.c.id).where(_has_name(name), _is_in_use())):
            raise UsageError(
                f"A key has the name {name!r} already. Take another name, or revoke that key "
                f"first: resnextq keys revoke {name}"
            )
        connection.execute(
            insert(api_keys).values(
                id=key_id,
                name=name,
                hash=_hash_of(key),
                scopes=sorted(set(scopes), key=SCOPES.index),
                owner=owner,
                created_at=db_now(),
            )
        )
    return key


def list_keys(connection: Connection) -> list[Key]:
    """All keys, the oldest first, revoked ones included."""
    rows = connection.execute(select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id))
    return [_make_key(row) for row in rows]


def revoke_key(engine: Engine, text: str) -> Key:
    """Ends a key, by its id or its name. One that is revoked stays so.

    Raises:
        UsageError: there is none.
    """
    with engine.begin() as connection:
        wanted = (api_keys.c.id == text) | (_has_name(text) & _is_in_use())
        row = connection.execute(select(api_keys).where(wanted)).first()
        if row is None:
            raise UsageError(
                f"There is no key {text[:MOST_NAME_CHARS]!r} in use. `resnextq keys list` shows "
                "those that there are."
            )
        connection.execute(
            update(api_keys)
            .where(api_keys.c.id == row.id)
            .values(revoked_at=func.coalesce(api_keys.c.revoked_at, db_now()))
        )
        return _make_key(connection.execute(select(api_keys).where(api_keys.c.id == row.id)).one())


class Keys:
    """Looks keys up, and remembers them for some seconds. Safe for many threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Key | None]] = {}

    def known(self, text: str) -> tuple[bool, Key | None]:
        """Whether the answer is known without SQL, and the answer."""
        found = self._known.get(_hash_of(text))
        if found is None or found[0] < time.monotonic():
            return False, None
        return True, found[1]

    def find(self, text: str) -> Key | None:
        """The key that this is, if it may still be used."""
        key = self._read(text)
        with self._lock:
            if len(self._known) >= MOST_KEPT:  # somebody tries many: none of them is worth keeping
                self._known.clear()
            self._known[_hash_of(text)] = (time.monotonic() + KEPT_S, key)
        return key

    def _read(self, text: str) -> Key | None:
        prefix, _, rest = text.partition("_")
        key_id, _, secret = rest.partition("_")
        if prefix != PREFIX or not secret or not key_id.isascii():
            return None
        wanted = select(api_keys, _is_to_be_noted().label("to_be_noted"))
        wanted = wanted.where(api_keys.c.id == key_id, _is_in_use())
        with reading(self._engine) as connection:
            row = connection.execute(wanted).first()
        if row is None or not hmac.compare_digest(row.hash, _hash_of(text)):
            return None
        if row.to_be_noted:
            with self._engine.begin() as connection:
                this = api_keys.c.id == row.id
                connection.execute(update(api_keys).where(this).values(last_used_at=db_now()))
        return _make_key(row)


def _hash_of(key: str) -> str:
    return hashlib.sha256(key.encode(errors="replace")).hexdigest()


def _has_name(name: str) -> ColumnElement[bool]:
    return api_keys.c.name == name


def _is_in_use() -> ColumnElement[bool]:
    return api_keys.c.revoked_at.is_(None)


def _is_to_be_noted() -> ColumnElement[bool]:
    return func.coalesce(api_keys.c.last_used_at < db_now(-NOTED_EVERY_S), True)


def _make_key(row: Row[Any]) -> Key:
    return Key(
        id=row.id,
        name=row.name,
        owner=row.owner,
        scopes=tuple(row.scopes),
        created_at=row.created_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
    )
