"""Logins for the pages, stored in SQL. A cookie names a login, so that no browser stores a key.

A session belongs to a key and ends with it, within `KEPT_S` seconds after the key is revoked. SQL
stores a SHA-256 of its token, as with keys. A *link* is a token that starts one session and is then
deleted. `up` prints one, and `resnextq login` prints more.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, Connection, Engine, delete, insert, select

from contract.database.clock import db_now
from contract.database.engine import reading
from contract.database.tables import api_keys, sessions
from contract.errors import UsageError
from producer.api.keys import Key, make_key

TOKEN_BYTES: Final = 32
LASTS_S: Final = 7 * 86_400.0
"""Seconds that a session lasts after its login."""
LINK_LASTS_S: Final = 3600.0
# How long a session is remembered before it is looked up again.
KEPT_S: Final = 5.0
MOST_KEPT: Final = 10_000


@dataclass(frozen=True)
class Session:
    """The login of a request."""

    token: str
    key: Key

    @property
    def form_token(self) -> str:
        """A token in each form of this session, which another site cannot know."""
        return hmac.digest(self.token.encode(), b"form", "sha256").hex()


class Sessions:
    """Begins, finds and ends sessions. Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Session]] = {}

    def begin(self, key_id: str) -> str:
        """Starts a session for this key. Returns its token."""
        token = secrets.token_urlsafe(TOKEN_BYTES)
        with self._engine.begin() as connection:
            _forget_old(connection)
            _add(connection, token, key_id, LASTS_S, is_link=False)
        return token

    def take_link(self, token: str) -> str | None:
        """Starts a session with a link, which works once. None: it has expired or was used."""
        with self._engine.begin() as connection:
            taken = (
                delete(sessions)
                .where(sessions.c.hash == _hash_of(token), sessions.c.is_link, _lasts())
                .returning(sessions.c.key_id)
            )
            key_id = connection.execute(taken).scalar_one_or_none()
        return None if key_id is None else self.begin(key_id)

    def known(self, token: str) -> Session | None:
        """The session, if it is known without SQL."""
        found = self._known.get(token)
        return None if found is None or found[0] < time.monotonic() else found[1]

    def find(self, token: str) -> Session | None:
        """The session, if neither it nor its key has ended."""
        statement = (
            select(api_keys)
            .join(sessions, sessions.c.key_id == api_keys.c.id)
            .where(
                sessions.c.hash == _hash_of(token),
                ~sessions.c.is_link,
                _lasts(),
                api_keys.c.revoked_at.is_(None),
            )
        )
        with reading(self._engine) as connection:
            row = connection.execute(statement).first()
        with self._lock:
            self._known.pop(token, None)
            if row is None:
                return None
            if len(self._known) >= MOST_KEPT:
                self._known.clear()
            session = Session(token, make_key(row))
            self._known[token] = (time.monotonic() + KEPT_S, session)
        return session

    def end(self, token: str) -> None:
        with self._engine.begin() as connection:
            connection.execute(delete(sessions).where(sessions.c.hash == _hash_of(token)))
        with self._lock:
            self._known.pop(token, None)


def make_link(engine: Engine, name: str) -> str:
    """A token that logs in once as the key with this name or id, within `LINK_LASTS_S`.

    Raises:
        UsageError: there is no such key in use.
    """
    token = secrets.token_urlsafe(TOKEN_BYTES)
    is_it = (api_keys.c.id == name) | (api_keys.c.name == name)
    with engine.begin() as connection:
        _forget_old(connection)
        wanted = select(api_keys.c.id).where(is_it, api_keys.c.revoked_at.is_(None))
        key_id = connection.execute(wanted).scalar()
        if key_id is None:
            raise UsageError(
                f"There is no key {name!r} in use. `resnextq keys list` shows all keys, and "
                "`resnextq keys create NAME` creates one."
            )
        _add(connection, token, key_id, LINK_LASTS_S, is_link=True)
    return token


def link_of(url: str, token: str) -> str:
    """The URL for a browser. `url` is the address of the pages."""
    return f"{url}/login?link={token}"


def _add(connection: Connection, token: str, key_id: str, lasts_s: float, *, is_link: bool) -> None:
    connection.execute(
        insert(sessions).values(
            hash=_hash_of(token),
            key_id=key_id,
            is_link=is_link,
            created_at=db_now(),
            expires_at=db_now(lasts_s),
        )
    )


def _forget_old(connection: Connection) -> None:
    connection.execute(delete(sessions).where(sessions.c.expires_at < db_now()))


def _lasts() -> ColumnElement[bool]:
    return sessions.c.expires_at >= db_now()


def _hash_of(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()
