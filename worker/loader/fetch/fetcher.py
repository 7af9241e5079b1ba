"""From a URI to bytes, in a loader's fetch threads: http, https, object stores and files.

One deadline in wall-clock time covers everything: look-up, connection, TLS, redirects and body.
`worker.loader.fetch.watchdog` cuts the connection at the deadline, wherever it hangs. Look-ups and
files on a server that is away cannot be interrupted: they run in helper threads, and the fetch
waits for them until the deadline.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin

import certifi
from urllib3 import BaseHTTPResponse, PoolManager
from urllib3.exceptions import HTTPError
from urllib3.util import parse_url

from contract import VERSION
from contract.failure import Failure
from contract.objects import is_object
from contract.uris import is_file, refusal
from worker.loader.fetch.addresses import FetchAllow, parse_address
from worker.loader.fetch.connections import pool_classes
from worker.loader.fetch.failures import FetchError, as_fetch_error
from worker.loader.fetch.files import read_file
from worker.loader.fetch.names import Names
from worker.loader.fetch.object_store import ObjectStores
from worker.loader.fetch.response import BoundedResponse, UnusableResponse, check_encoding
from worker.loader.fetch.robots import OUR_NAME, forbidding
from worker.loader.fetch.settings import FetchSettings
from worker.loader.fetch.watchdog import OngoingFetch, Watchdog, in_time

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
OK: Final = 200
# A longer Content-Length is no length; a message shows its beginning.
MOST_DIGITS: Final = 18
PIECE_BYTES: Final = 64 * 1024
# Helper threads for look-ups, and again for file reads, for each fetch thread: one that it waits
# for, and one that still hangs after its deadline. With fewer, names that hang would hold up
# healthy ones.
HELPERS_A_FETCH: Final = 2
# Connections that are kept for another request: the number of hosts, and of each host.
HOSTS_KEPT: Final = 64
CONNECTIONS_KEPT: Final = 32


@dataclass(frozen=True)
class Fetched:
    body: bytes
    final_uri: str | None = None
    """Where redirects led; None if nowhere else."""


class Fetcher:
    """Fetches for all threads of a loader: one pool of connections, no cookies, no proxies.

    It uses urllib3 and not requests, whose additions cost CPU for each image.
    """

    def __init__(self, settings: FetchSettings, *, threads: int) -> None:
        self._settings = settings
        self._allow = FetchAllow.parse(settings.fetch_allow)
        self._watchdog = Watchdog(settings.fetch_deadline_s)
        helpers = HELPERS_A_FETCH * threads
        self._names = Names(threads=helpers)
        self._readers = ThreadPoolExecutor(helpers, thread_name_prefix="reader")
        self._thread = threading.local()
        self._pools = self._make_pools(threads)
        self._headers = _headers(settings.contact)
        self._objects = ObjectStores(settings)

    def fetch(self, uri: str, root: Path | None = None) -> Fetched:
        """
        Args:
            uri: of the web, an object store, or a file.
            root: a file or folder that is permitted besides `file_roots`, for this image.

        Raises:
            FetchError: with the failure to be recorded.
        """
        if is_file(uri):
            return self._fetch_file(uri, root)
        refused = refusal(uri, file_roots=(), object_stores=self._settings.object_stores)
        if refused is not None:
            raise FetchError(refused.code, refused.detail)
        if is_object(uri):
            return self._fetch_object(uri)
        with self._watchdog.watch() as ongoing:
            self._thread.ongoing = ongoing
            try:
                return self._follow(uri, ongoing)
            except (FetchError, UnusableResponse, HTTPError, OSError, ValueError) as error:
                ongoing.check()  # a connection that the watchdog cut looks like the server's error
                raise as_fetch_error(error, redirected=ongoing.redirected) from error

    def _fetch_file(self, uri: str, root: Path | None) -> Fetched:
        named = () if root is None else (root,)
        read = partial(
            read_file,
            uri,
            (*self._settings.file_roots, *named),
            max_bytes=self._settings.max_image_bytes,
        )
        deadline_s = self._settings.fetch_deadline_s
        return Fetched(in_time(self._readers, deadline_s, "reading the file", read))

    def _fetch_object(self, uri: str) -> Fetched:
        body = in_time(
            self._readers,
            self._settings.fetch_deadline_s,
            "the object store did not answer in time",
            lambda: self._objects.fetch(uri),
        )
        if isinstance(body, Failure):
            raise FetchError(body.code, body.detail)
        return Fetched(body)

    def connect(self, host: str, port: int) -> socket.socket:
        """A connection to the first permitted address that answers."""
        ongoing: OngoingFetch = self._thread.ongoing
        reason: OSError | None = None
        if self._settings.fetch_ports and port not in self._settings.fetch_ports:
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
        self, host: str, port: int, ongoing: OngoingFetch
    ) -> Sequence[tuple[socket.AddressFamily, Any]]:
        """The permitted addresses. Each is checked for each connection, also if the resolver was
        asked earlier.
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
        logging.getLogger("urllib3.connectionpool").setLevel(
            logging.ERROR
        )  # it warns of connections that are not kept
        pools = PoolManager(
            num_pools=HOSTS_KEPT,
            maxsize=min(threads, CONNECTIONS_KEPT),
            retries=False,
            cert_reqs="CERT_REQUIRED",
            ca_certs=os.environ.get("REQUESTS_CA_BUNDLE") or certifi.where(),
        )
        respond = partial(BoundedResponse, most_body_bytes=self._settings.max_image_bytes)
        pools.pool_classes_by_scheme = pool_classes(self, respond)
        return pools

    def _follow(self, uri: str, ongoing: OngoingFetch) -> Fetched:
        address = uri
        for _ in range(self._settings.max_redirects + 1):
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
            finally:  # a connection that was read to its end is back in its pool
                response.close()
            ongoing.redirected = True
            address = self._redirected(address, location)
        raise FetchError("too_many_redirects", f"more than {self._settings.max_redirects}")

    def _redirected(self, address: str, location: str) -> str:
        target = parse_url(urljoin(address, location)).url.partition("#")[0]
        if is_file(target):
            raise FetchError("blocked_path", "from the web to a file")
        refused = refusal(target, file_roots=())
        if refused is not None:
            raise FetchError(refused.code, refused.detail)
        return target

    def _body(self, response: BaseHTTPResponse, ongoing: OngoingFetch) -> bytes:
        if response.status != OK:
            raise FetchError(
                f"http_{response.status}", _printable(response.reason), _retry_after_s(response)
            )
        self._heed_robots(response)
        check_encoding(response.headers.getlist("Content-Encoding"))
        limit = self._settings.max_image_bytes
        length = response.headers.get("Content-Length", "")
        # Python refuses to convert thousands of digits.
        if length.isdecimal() and (len(length) > MOST_DIGITS or int(length) > limit):
            many = f"{length[:MOST_DIGITS]}{'…' * (len(length) > MOST_DIGITS)}"
            raise FetchError("too_large", f"{many} bytes; at most {limit} are taken")
        body = bytearray()
        # Unpacked piece by piece, so a body that inflates beyond the limit takes no memory.
        while piece := response.read(PIECE_BYTES, decode_content=True):
            body += piece
            if len(body) > limit:
                raise FetchError("too_large", f"more than {limit} bytes")
        ongoing.check()  # a connection that the watchdog cut may look like a body's end
        return bytes(body)

    def _heed_robots(self, response: BaseHTTPResponse) -> None:
        if self._settings.robots == "honour":
            directive = forbidding(response.headers.getlist("X-Robots-Tag"))
            if directive is not None:
                raise FetchError("robots", f"X-Robots-Tag: {directive}")


def _headers(contact: str) -> dict[str, str]:
    about = f"; {contact}" if contact else ""
    return {
        "User-Agent": f"{OUR_NAME}/{VERSION} (image classifier{about})",
        "Accept": "image/*,*/*;q=0.5",
        "Accept-Encoding": "identity",
    }


def _printable(text: str | None) -> str:
    """Text from a server, safe for a terminal."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text or "")


def _retry_after_s(response: BaseHTTPResponse) -> float | None:
    """RFC 9110, 10.2.3: seconds, or a date."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    # Not a date: a year of twenty digits, or a zone beyond a day.
    with suppress(ValueError, TypeError, OverflowError):
        moment = parsedate_to_datetime(value)
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max(0.0, (aware - datetime.now(UTC)).total_seconds())
    return None
