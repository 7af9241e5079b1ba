"""Sends the notifications of the outbox, in threads beside the dispatcher's loop.

If a receiver does not answer with 2xx, it is tried again, first after seconds, for more than a day
in all. 410 ends the tries at once. Redirects are not followed. The address is checked after the
name is resolved, like that of an image: clients must not reach what only this machine can reach.
Each host gets one request at once, so a receiver that hangs delays only itself.
"""

from __future__ import annotations

import logging
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import urllib3
from sqlalchemy import Engine, Row, null, select, update
from sqlalchemy.exc import SQLAlchemyError
from standardwebhooks import Webhook
from urllib3.exceptions import HTTPError

from contract import VERSION
from contract.addresses import FetchAllow, parse_address
from contract.database.clock import db_now
from contract.database.engine import reading
from contract.database.tables import notifications
from contract.log import in_one_line, log_about

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 1.0
# Seconds after which a notification is due again if the dispatcher that took it did not finish.
TAKEN_FOR_S: Final = 60.0
# Seconds to wait after the first, second, … try; together more than a day.
WAITS_S: Final = (5.0, 30.0, 120.0, 600.0, 3_600.0, 10_800.0, 21_600.0, 43_200.0, 43_200.0)
THREADS: Final = 8
CONNECT_S: Final = 5.0
READ_S: Final = 10.0
MOST_ERROR_CHARS: Final = 300
SUCCESS: Final = range(200, 300)
GONE: Final = 410
DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class Undelivered(Exception):
    """The reason why a receiver did not accept a notification."""

    def __init__(self, why: str, *, gone: bool = False) -> None:
        super().__init__(why)
        self.gone = gone


class Sender:
    """Owns its threads, from `start` to `stop`. Several dispatchers may run one each."""

    def __init__(self, engine: Engine, allow: FetchAllow) -> None:
        self._engine = engine
        self._allow = allow
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._busy = set[str]()
        """Hosts with a request in progress."""
        self._pool = ThreadPoolExecutor(THREADS, "notify")
        self._thread = threading.Thread(target=self._run, name="notify", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stops. Waits until requests in progress are answered or time out."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._pool.shutdown(cancel_futures=True)

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_EVERY_S):
            with suppress(
                SQLAlchemyError
            ):  # the dispatcher's loop reports that the database is unavailable
                self.look()

    def look(self) -> None:
        """Starts the due notifications that can be sent now."""
        due = (
            select(notifications.c.id, notifications.c.url)
            .where(_is_waiting(), notifications.c.next_attempt_at <= db_now())
            .order_by(notifications.c.next_attempt_at)
        )
        with reading(self._engine) as connection:
            rows = connection.execute(due).all()
        for row in rows:
            host = host_of(row.url)
            with self._lock:
                if host in self._busy or len(self._busy) >= THREADS:
                    continue
                self._busy.add(host)
            self._pool.submit(self._send, row.id, host)

    def _send(self, number: int, host: str) -> None:
        try:
            taken = self._take(number)
            if taken is not None:
                with log_about(job=taken.job_id):
                    self._deliver(taken)
        except SQLAlchemyError:  # it is due again after TAKEN_FOR_S
            pass
        except Exception:
            log.exception("Could not send a notification because of a fault in this program.")
        finally:
            with self._lock:
                self._busy.discard(host)

    def _take(self, number: int) -> Row[Any] | None:
        """The notification, unless another dispatcher has taken it meanwhile."""
        due = notifications.c.next_attempt_at <= db_now()
        statement = (
            update(notifications)
            .where(notifications.c.id == number, _is_waiting(), due)
            .values(attempts=notifications.c.attempts + 1, next_attempt_at=db_now(TAKEN_FOR_S))
            .returning(notifications)
        )
        with self._engine.begin() as connection:
            return connection.execute(statement).one_or_none()

    def _deliver(self, row: Row[Any]) -> None:
        where = host_of(row.url)
        try:
            post(row, self._allow)
        except Undelivered as error:
            reason = in_one_line(str(error))[:MOST_ERROR_CHARS]
            ends = error.gone or row.attempts > len(WAITS_S)
            wait_s = 0.0 if ends else WAITS_S[row.attempts - 1]
            self._set(
                row,
                last_error=reason,
                next_attempt_at=db_now(wait_s),
                failed_at=db_now() if ends else null(),
            )
            what = "failed for good" if ends else f"failed, will be tried again in {wait_s:.0f} s"
            log.warning("Notification %s to %s %s: %s", row.event_id, where, what, reason)
        else:
            self._set(row, delivered_at=db_now(), last_error=null())
            log.info("Notification %s was delivered to %s.", row.event_id, where)

    def _set(self, row: Row[Any], **values: Any) -> None:  # noqa: ANN401  (columns)
        """Stores the outcome. No other dispatcher has taken it: a request ends before
        TAKEN_FOR_S.
        """
        this = (notifications.c.id == row.id) & (notifications.c.attempts == row.attempts)
        with self._engine.begin() as connection:
            connection.execute(update(notifications).where(this).values(**values))


def post(row: Row[Any], allow: FetchAllow) -> None:
    """Sends one notification.

    Raises:
        Undelivered: the receiver did not accept it.
    """
    parts = urlsplit(row.url)
    address = _address_of(parts, allow)
    now = datetime.now(UTC)
    headers = {
        "Host": parts.netloc,
        "Content-Type": "application/json",
        "User-Agent": f"resnext-queue/{VERSION}",
        "webhook-id": row.event_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(row.secret).sign(row.event_id, now, row.body),
    }
    target = f"{parts.path or '/'}{'?' * bool(parts.query)}{parts.query}"
    try:
        with _connection(parts, address) as pool:
            response = pool.urlopen(
                "POST",
                target,
                row.body.encode(),
                headers,
                retries=False,
                redirect=False,
                preload_content=False,
            )
            response.close()
    except HTTPError as error:
        raise Undelivered(f"no answer: {error}") from error
    if response.status not in SUCCESS:
        gone = response.status == GONE
        raise Undelivered(f"the answer's status is {response.status}", gone=gone)


def host_of(url: str) -> str:
    """The host, for the log and for turns. The rest of a URL may hold a secret."""
    return urlsplit(url).netloc.lower()


def _connection(parts: SplitResult, address: _Address) -> urllib3.HTTPConnectionPool:
    """Connects to exactly this address, but checks TLS for the host in the URL."""
    timeout = urllib3.Timeout(connect=CONNECT_S, read=READ_S)
    if parts.scheme == "http":
        return urllib3.HTTPConnectionPool(address.text, address.port, timeout=timeout)
    host = parts.hostname or ""
    return urllib3.HTTPSConnectionPool(
        address.text,
        address.port,
        timeout=timeout,
        cert_reqs="CERT_REQUIRED",
        server_hostname=host,
        assert_hostname=host,
    )


@dataclass(frozen=True)
class _Address:
    text: str
    port: int


def _address_of(parts: SplitResult, allow: FetchAllow) -> _Address:
    """The first permitted address of the host.

    Raises:
        Undelivered: there is none.
    """
    host, port = parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme]
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Undelivered("its host has no address") from error
    for *_, (text, *_rest) in found:
        if allow.permits(host, port, parse_address(str(text))):
            return _Address(str(text), port)
    raise Undelivered(
        "its host has a private address; the dispatcher's RESNEXT_FETCH_ALLOW can open it"
    )


def _is_waiting() -> Any:  # noqa: ANN401  (an expression)
    return notifications.c.delivered_at.is_(None) & notifications.c.failed_at.is_(None)
