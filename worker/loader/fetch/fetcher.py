"""From a URI to bytes, in a loader's fetch threads: http, https and files under the roots.

One wall-clock deadline holds for everything: look-up, connection, TLS, redirects and body. A
time-out of the socket alone would not do, since a server that sends a byte a second never
runs into it; so a watchdog shuts the connection down at the deadline, wherever it hangs. What
nobody can break off (look-ups, files on a server that is away) is left to helper threads, and
waited for until the deadline.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import ssl
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from http.client import HTTPException, HTTPResponse, IncompleteRead, InvalidURL
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urljoin

import certifi
from urllib3 import BaseHTTPResponse, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    DecodeError,
    HTTPError,
    InvalidHeader,
    LocationValueError,
    ProtocolError,
    SSLError,
)
from urllib3.exceptions import TimeoutError as HTTPTimeoutError
from urllib3.util import parse_url

from contract import VERSION
from contract.failure import Failure
from contract.objects import is_object
from contract.uris import find_file, is_file, is_under, refusal
from worker.loader.fetch.addresses import FetchAllow, parse_address
from worker.loader.fetch.names import Names
from worker.loader.fetch.object_store import ObjectStores
from worker.loader.fetch.response import BoundedResponse, UnusableResponse, check_encoding
from worker.loader.fetch.robots import OUR_NAME, forbidding

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
OK: Final = 200
# Of a length that is any; a longer one is shown by its beginning.
MOST_DIGITS: Final = 18
PIECE_BYTES: Final = 64 * 1024
# Of look-ups and of file reads, for each fetch thread: the one that it waits for, and one that
# hangs after its deadline, until the resolver gives up. With fewer, names that hang would keep
# healthy ones waiting until their deadline.
HELPERS_A_FETCH: Final = 2
# Connections that wait for another request: of so many hosts, so many each.
HOSTS_KEPT: Final = 64
CONNECTIONS_KEPT: Final = 32
_BROKEN_OFF: Final = Failure("connect", "the connection broke off")
# What urllib3's exceptions, or their causes, stand for: the first line that fits.
FAILURES: Final[tuple[tuple[type[Exception] | tuple[type[Exception], ...], Failure], ...]] = (
    (ssl.SSLEOFError, _BROKEN_OFF),
    (SSLError, Failure("tls", "the certificate or the handshake is not valid")),
    ((HTTPTimeoutError, TimeoutError), Failure("timeout", "no answer")),
    ((LocationValueError, InvalidURL), Failure("bad_uri", "not to be read as an address")),
    ((IncompleteRead, ConnectionError), _BROKEN_OFF),
    (
        (DecodeError, InvalidHeader, HTTPException),
        Failure("bad_response", "no HTTP, or not as its headers say"),
    ),
    ((HTTPError, OSError), _BROKEN_OFF),
)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class FetchLimits:
    """What one fetch may do; the settings of the same names."""

    fetch_allow: tuple[str, ...] = ()
    fetch_ports: tuple[int, ...] = ()
    file_roots: tuple[Path, ...] = ()
    fetch_deadline_s: float = 20.0
    max_image_bytes: int = 32 * 2**20
    max_redirects: int = 5
    robots: str = "honour"
    contact: str = ""
    object_stores: tuple[str, ...] = ()
    object_store_access: str = "credentials"
    s3_endpoint: str | None = None
    gcs_endpoint: str | None = None


@dataclass(frozen=True)
class Fetched:
    body: bytes
    final_uri: str | None = None
    """Where redirects led; None if nowhere else."""


class FetchError(Exception):
    """The image cannot be had; `failure` says why."""

    def __init__(self, code: str, detail: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(code, detail)
        self.failure = Failure(code, detail, retry_after_s)


class _Ongoing:
    """A fetch that is under way: when it must end, and how to end it."""

    def __init__(self, deadline_s: float) -> None:
        self.ends_at = time.monotonic() + deadline_s
        self.expired = False
        self.redirected = False
        self._switch: socket.socket | None = None
        self._lock = threading.Lock()

    @property
    def left_s(self) -> float:
        return self.ends_at - time.monotonic()

    def use(self, switch: socket.socket) -> None:
        """The connection that this fetch now waits for.

        By a descriptor of our own: where the server keeps no connection, http.client closes it
        once it has the headers, and reads the body from what is left of it.
        """
        self.release()
        with self._lock:
            self._switch = switch.dup()
        if self.expired:
            self.expire()

    def release(self) -> None:
        """The connection is another fetch's from here on."""
        with self._lock:
            if self._switch is not None:
                self._switch.close()
            self._switch = None

    def expire(self) -> None:
        self.expired = True
        with self._lock:
            if self._switch is not None:
                with suppress(OSError):  # closed by the other side meanwhile
                    self._switch.shutdown(socket.SHUT_RDWR)

    def check(self) -> None:
        if self.expired or self.left_s <= 0:
            raise FetchError("timeout", "the deadline is over")


class Watchdog:
    """Expires fetches at their deadline. All have the same one, so they end in their order."""

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._queue: deque[_Ongoing] = deque()
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    @contextmanager
    def watch(self) -> Iterator[_Ongoing]:
        ongoing = _Ongoing(self._deadline_s)
        with self._changed:
            self._queue.append(ongoing)
            self._changed.notify()
        try:
            yield ongoing
        finally:
            ongoing.release()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue:
                    self._changed.wait()
                first = self._queue.popleft()
            time.sleep(max(0.0, first.left_s))
            first.expire()


class Fetcher:
    """Fetches for all threads of a loader: one pool of connections, no cookies, no proxies.

    By urllib3 itself: what requests adds is not wanted here, and costs CPU for each image.
    """

    def __init__(self, limits: FetchLimits, *, threads: int) -> None:
        self._limits = limits
        self._allow = FetchAllow.parse(limits.fetch_allow)
        self._watchdog = Watchdog(limits.fetch_deadline_s)
        helpers = HELPERS_A_FETCH * threads
        self._names = Names(threads=helpers)
        self._readers = ThreadPoolExecutor(helpers, thread_name_prefix="reader")
        self._thread = threading.local()
        self._pools = self._make_pools(threads)
        self._headers = _headers(limits.contact)
        self._objects = ObjectStores(
            endpoints={"s3": limits.s3_endpoint, "gs": limits.gcs_endpoint},
            access=limits.object_store_access,
            deadline_s=limits.fetch_deadline_s,
            max_bytes=limits.max_image_bytes,
        )

    def fetch(self, uri: str, root: Path | None = None) -> Fetched:
        """
        Args:
            uri: of the web, or of a file.
            root: a file or folder that is permitted besides `file_roots`, this once.

        Raises:
            FetchError: with the failure to be recorded.
        """
        if is_file(uri):
            deadline_s = self._limits.fetch_deadline_s
            roots = (*self._limits.file_roots, *([] if root is None else [root]))
            body = _in_time(
                self._readers, deadline_s, "reading the file", lambda: self._read(uri, roots)
            )
            return Fetched(body)
        refused = refusal(uri, file_roots=(), object_stores=self._limits.object_stores)
        if refused is not None:
            raise FetchError(refused.code, refused.detail)
        if is_object(uri):
            return self._fetch_object(uri)
        with self._watchdog.watch() as ongoing:
            self._thread.ongoing = ongoing
            try:
                return self._follow(uri, ongoing)
            except (FetchError, UnusableResponse, HTTPError, OSError, ValueError) as error:
                ongoing.check()  # what a cut connection looks like is no error of the server
                raise _as_fetch_error(error, redirected=ongoing.redirected) from error

    def _fetch_object(self, uri: str) -> Fetched:
        body = _in_time(
            self._readers,
            self._limits.fetch_deadline_s,
            "the object store did not answer in time",
            lambda: self._objects.fetch(uri),
        )
        if isinstance(body, Failure):
            raise FetchError(body.code, body.detail)
        return Fetched(body)

    def connect(self, host: str, port: int) -> socket.socket:
        """A connection to the first address that may be had and answers."""
        ongoing: _Ongoing = self._thread.ongoing
        reason: OSError | None = None
        if self._limits.fetch_ports and port not in self._limits.fetch_ports:
            raise FetchError("blocked_port", f"{port} is none of RESNEXT_FETCH_PORTS")
        for family, address in self._resolve(host, port, ongoing):
            ongoing.check()
            connection = socket.socket(family, socket.SOCK_STREAM)
            try:
                connection.settimeout(ongoing.left_s)
                connection.connect(address)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                connection.close()
                reason = error
            else:
                return connection
        ongoing.check()
        why = "refused" if isinstance(reason, ConnectionRefusedError) else "not to be had"
        raise FetchError("connect", f"connection {why}") from reason

    def use(self, switch: socket.socket) -> None:
        """Called by a connection before it sends a request."""
        self._thread.ongoing.use(switch)

    def _resolve(
        self, host: str, port: int, ongoing: _Ongoing
    ) -> Sequence[tuple[socket.AddressFamily, Any]]:
        """The permitted addresses. All are checked, whether the resolver was asked just now or
        for an earlier connection: the one that is connected to is among them.
        """
        try:
            found = self._names.look_up(host, port, within_s=ongoing.left_s)
        except TimeoutError as error:
            raise FetchError("timeout", "looking up the host's name") from error
        if not found:
            raise FetchError("dns", "the host's name has no address")
        permitted = [
            (family, address)
            for family, address in found
            if self._allow.permits(host, port, parse_address(str(address[0])))
        ]
        if not permitted:
            raise FetchError("blocked_address", "the host has no public address")
        return permitted

    def _make_pools(self, threads: int) -> PoolManager:
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # of those not kept
        pools = PoolManager(
            num_pools=HOSTS_KEPT,
            maxsize=min(threads, CONNECTIONS_KEPT),
            retries=False,
            cert_reqs="CERT_REQUIRED",
            ca_certs=os.environ.get("REQUESTS_CA_BUNDLE") or certifi.where(),
        )
        respond = partial(BoundedResponse, most_body_bytes=self._limits.max_image_bytes)
        pools.pool_classes_by_scheme = _pool_classes(self, respond)
        return pools

    def _follow(self, uri: str, ongoing: _Ongoing) -> Fetched:
        address = uri
        for _ in range(self._limits.max_redirects + 1):
            ongoing.check()
            response = self._pools.urlopen(
                "GET",
                address,
                headers=self._headers,
                redirect=False,
                preload_content=False,
                timeout=ongoing.left_s,
            )
            try:
                location = response.headers.get("Location")
                if response.status not in REDIRECTS or location is None:
                    body = self._body(response, ongoing)
                    return Fetched(body, address if address != uri else None)
            finally:  # read to its end, it has gone back to its pool already
                response.close()
            ongoing.redirected = True
            address = self._redirected(address, location)
        raise FetchError("too_many_redirects", f"more than {self._limits.max_redirects}")

    def _redirected(self, address: str, location: str) -> str:
        target = parse_url(urljoin(address, location)).url.partition("#")[0]
        if is_file(target):
            raise FetchError("blocked_path", "from the web to a file")
        refused = refusal(target, file_roots=())
        if refused is not None:
            raise FetchError(refused.code, refused.detail)
        return target

    def _body(self, response: BaseHTTPResponse, ongoing: _Ongoing) -> bytes:
        if response.status != OK:
            raise FetchError(
                f"http_{response.status}", _printable(response.reason), _retry_after_s(response)
            )
        self._heed_robots(response)
        check_encoding(response.headers.getlist("Content-Encoding"))
        limit = self._limits.max_image_bytes
        length = response.headers.get("Content-Length", "")
        # Of thousands of digits Python makes no number.
        if length.isdecimal() and (len(length) > MOST_DIGITS or int(length) > limit):
            many = f"{length[:MOST_DIGITS]}{'…' * (len(length) > MOST_DIGITS)}"
            raise FetchError("too_large", f"{many} bytes; at most {limit} are taken")
        body = bytearray()
        # Decoded piece by piece: what inflates beyond the limit is dropped on the way.
        while piece := response.read(PIECE_BYTES, decode_content=True):
            body += piece
            if len(body) > limit:
                raise FetchError("too_large", f"more than {limit} bytes")
        ongoing.check()  # a connection that the watchdog cut may look like a body's end
        return bytes(body)

    def _heed_robots(self, response: BaseHTTPResponse) -> None:
        if self._limits.robots == "honour":
            directive = forbidding(response.headers.getlist("X-Robots-Tag"))
            if directive is not None:
                raise FetchError("robots", f"X-Robots-Tag: {directive}")

    def _read(self, uri: str, roots: Sequence[Path]) -> bytes:
        """A regular file: neither a pipe nor a device, which could hang or never end."""
        path = find_file(uri, roots)
        if isinstance(path, Failure):
            raise FetchError(path.code, path.detail)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
            try:
                _check_opened(descriptor, roots)
                with os.fdopen(descriptor, "rb", closefd=False) as file:
                    body = file.read(self._limits.max_image_bytes + 1)
            finally:
                os.close(descriptor)
        except FileNotFoundError as error:
            raise FetchError("not_found", "there is no such file") from error
        except TimeoutError as error:
            raise FetchError("timeout", "reading the file") from error
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE}:  # later there will be some
                raise FetchError("timeout", "the loader had no descriptors left for it") from error
            raise FetchError("unreadable", error.strerror or "") from error
        if len(body) > self._limits.max_image_bytes:
            raise FetchError("too_large", f"more than {self._limits.max_image_bytes} bytes")
        return body


def _check_opened(descriptor: int, roots: Sequence[Path]) -> None:
    """A folder on the way may have become a link since the path was resolved."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise FetchError("unreadable", "not a regular file")
    opened = Path(f"/proc/self/fd/{descriptor}").readlink()
    if not is_under(opened, roots):
        raise FetchError("blocked_path", "replaced by a link while it was opened")


def _in_time(helpers: ThreadPoolExecutor, left_s: float, what: str, work: Callable[[], T]) -> T:
    """What the work returns or raises, if that is in time.

    Raises:
        FetchError: it is not; the work goes on if it has begun, and nobody asks for it any more.
    """
    answer = helpers.submit(work)
    try:
        return answer.result(timeout=max(0.0, left_s))
    except TimeoutError as error:
        answer.cancel()
        raise FetchError("timeout", what) from error


class _Switched:
    """What both kinds of connection add: our addresses, and a switch for the watchdog."""

    fetcher: Fetcher
    switch: socket.socket | None = None
    host: str
    port: int

    def _new_conn(self) -> socket.socket:
        connection = self.fetcher.connect(self.host, self.port)
        # TLS will take the socket over; another descriptor of it stays ours.
        self.switch = connection.dup()
        self.fetcher.use(self.switch)
        return connection

    def putrequest(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        if self.switch is not None:  # a connection from the pool
            self.fetcher.use(self.switch)
        super().putrequest(*arguments, **options)  # type: ignore[misc]

    def close(self) -> None:
        super().close()  # type: ignore[misc]
        if self.switch is not None:
            self.switch.close()
            self.switch = None


def _pool_classes(
    fetcher: Fetcher, respond: Callable[..., HTTPResponse]
) -> dict[str, type[HTTPConnectionPool]]:
    """urllib3's pools, with connections that ask `fetcher` for theirs."""
    # No method, although it is found on a class.
    ours = {"fetcher": fetcher, "response_class": staticmethod(respond)}
    http = type("Http", (_Switched, HTTPConnection), ours)
    https = type("Https", (_Switched, HTTPSConnection), ours)
    return {
        "http": type("HttpPool", (HTTPConnectionPool,), {"ConnectionCls": http}),
        "https": type("HttpsPool", (HTTPSConnectionPool,), {"ConnectionCls": https}),
    }


def _headers(contact: str) -> dict[str, str]:
    about = f"; {contact}" if contact else ""
    return {
        "User-Agent": f"{OUR_NAME}/{VERSION} (image classifier{about})",
        "Accept": "image/*,*/*;q=0.5",
        "Accept-Encoding": "identity",
    }


def _as_fetch_error(error: Exception, *, redirected: bool) -> FetchError:
    """With a word on whose fault it is, and no host's name: what a redirect names may be inside."""
    failure = _failure_of(error)
    where = "redirect: " if redirected else ""
    return FetchError(failure.code, where + failure.detail, failure.retry_after_s)


def _failure_of(error: Exception) -> Failure:
    """The code of what went wrong; nothing of it names our own network."""
    if isinstance(error, FetchError | UnusableResponse):
        return error.failure
    cause = error.args[-1] if isinstance(error, ProtocolError | SSLError) else error
    for kinds, failure in FAILURES:
        if isinstance(error, kinds) or isinstance(cause, kinds):
            return failure
    return Failure("bad_uri", type(error).__name__)


def _printable(text: str | None) -> str:
    """Strangers' text for a terminal."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text or "")


def _retry_after_s(response: BaseHTTPResponse) -> float | None:
    """RFC 9110, 10.2.3: seconds, or a date."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    # A year of twenty digits, or a zone beyond a day: no date either.
    with suppress(ValueError, TypeError, OverflowError):
        moment = parsedate_to_datetime(value)
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max(0.0, (aware - datetime.now(UTC)).total_seconds())
    return None
