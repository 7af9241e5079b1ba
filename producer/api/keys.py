"""Keys of the HTTP API: who may read, who may submit.

A key is `rnq_ID_SECRET`. It is shown once, when it is created. SQL stores a SHA-256 of the whole
key. The secret has 32 random bytes, so trying all is impossible. A key from a request is looked up
by its id and compared in constant time.
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
"""`read` sees all jobs and results. `submit` may submit, cancel, retry and change jobs, and sees
those of its owner.
"""
PREFIX: Final = "rnq"
SECRET_BYTES: Final = 32
ID_BYTES: Final = 4
MOST_NAME_CHARS: Final = 100
# How long a key is remembered. A revoked key works for this long at most.
KEPT_S: Final = 5.0
MOST_KEPT: Final = 10_000
# Precision of `last_used_at`: coarse, so that reading a job usually writes nothing.
NOTED_EVERY_S: Final = 60.0


@dataclass(frozen=True, kw_only=True)
class Key:
    """A key as stored in SQL, without its secret."""

    id: str
    name: str
    owner: str
    scopes: tuple[str, ...]
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


def create_key(engine: Engine, name: str, scopes: Sequence[str], owner: str) -> str:
    """Creates a key for this owner's jobs and returns it. It cannot be shown again.

    Raises:
        UsageError: the name or a scope is invalid, or a key in use has the same name.
    """
    if not (name.isprintable() and 0 < len(name) <= MOST_NAME_CHARS):
        raise UsageError(
            f"A key's name must have 1 to {MOST_NAME_CHARS} printable characters, got "
            f"{name[:MOST_NAME_CHARS]!r}."
        )
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        given = f"{unknown[0]!r}" if unknown else "none"
        raise UsageError(f"A key's scope must be one of {', '.join(SCOPES)}, got {given}.")
    key_id = secrets.token_hex(ID_BYTES)
    key = f"{PREFIX}_{key_id}_{secrets.token_urlsafe(SECRET_BYTES)}"
    with engine.begin() as connection:
        if connection.scalar(select(api_keys.c.id).where(_has_name(name), _is_in_use())):
            raise UsageError(
                f"There is already a key named {name!r}. Choose another name, or revoke that key "
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
    """All keys, the oldest first, including revoked ones."""
    rows = connection.execute(select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id))
    return [make_key(row) for row in rows]


def revoke_key(engine: Engine, text: str) -> Key:
    """Revokes a key by its id or name. A revoked key stays revoked.

    Raises:
        UsageError: there is no such key in use.
    """
    with engine.begin() as connection:
        wanted = (api_keys.c.id == text) | (_has_name(text) & _is_in_use())
        row = connection.execute(select(api_keys).where(wanted)).first()
        if row is None:
            raise UsageError(
                f"There is no key {text[:MOST_NAME_CHARS]!r} in use. `resnextq keys list` shows "
                "all keys."
            )
        connection.execute(
            update(api_keys)
            .where(api_keys.c.id == row.id)
            .values(revoked_at=func.coalesce(api_keys.c.revoked_at, db_now()))
        )
        return make_key(connection.execute(select(api_keys).where(api_keys.c.id == row.id)).one())


class Keys:
    """Looks keys up and remembers them for some seconds. Thread-safe."""

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
        """The key, if it is valid and in use."""
        key = self._read(text)
        with self._lock:
            if (
                len(self._known) >= MOST_KEPT
            ):  # somebody is trying many keys, none of which is worth keeping
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
        return make_key(row)


def _hash_of(key: str) -> str:
    return hashlib.sha256(key.encode(errors="replace")).hexdigest()


def _has_name(name: str) -> ColumnElement[bool]:
    return api_keys.c.name == name


def _is_in_use() -> ColumnElement[bool]:
    return api_keys.c.revoked_at.is_(None)


def _is_to_be_noted() -> ColumnElement[bool]:
    return func.coalesce(api_keys.c.last_used_at < db_now(-NOTED_EVERY_S), True)


def make_key(row: Row[Any]) -> Key:
    """`row` must have all columns of `api_keys`."""
    return Key(
        id=row.id,
        name=row.name,
        owner=row.owner,
        scopes=tuple(row.scopes),
        created_at=row.created_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
    )
