"""From a URI to bytes, in a loader's loop: http, https, object stores and files.

`worker.loader.program` calls `begin` for each of the worker's requests. One deadline in wall-clock
time covers everything: look-up, connection, TLS, redirects and body. A fetch is a generator that
reads from top to bottom, so it has one end. To wait, it yields a function that takes its
continuation.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urljoin, urlsplit

from contract.addresses import FetchAllow, parse_address
from contract.failure import Failure
from contract.objects import is_object
from contract.uris import is_file, refusal
from worker.loader.fetch import descriptors
from worker.loader.fetch.failures import (
    BAD_URI,
    BLOCKED_ADDRESS,
    NO_ADDRESS,
    NO_DESCRIPTORS,
    NO_MEMORY,
    FetchError,
)
from worker.loader.fetch.files import read_file
from worker.loader.fetch.helpers import Helpers
from worker.loader.fetch.loop import Loop
from worker.loader.fetch.names import Addresses, Names
from worker.loader.fetch.object_store import ObjectStores
from worker.loader.fetch.settings import FetchSettings
from worker.loader.fetch.transfer import Request, Response
from worker.loader.fetch.web import Web
from worker.loader.fetch.web_address import WebAddress, parse_web, spell_host

log = logging.getLogger(__name__)

# After descriptors ran out, the loader keeps to fewer fetches for this long.
FEWER_FOR_S: Final = 60.0


@dataclass(frozen=True)
class Fetched:
    body: bytes
    final_uri: str | None = None
    """The URI to which redirects led; None if there were none."""


Wait = Callable[[Callable[[Any], None]], object]
"""Called with the continuation, which must be called with the result or the error."""
Steps = Generator[Wait, Any, Fetched]
Then = Callable[[Fetched | Failure], object]


class _Fetch(NamedTuple):
    uri: str
    root: Path | None
    then: Then


class Fetcher:
    """Owns the fetches in progress, and those that wait for descriptors."""

    def __init__(self, settings: FetchSettings, loop: Loop, *, slots: int) -> None:
        """
        Args:
            settings: the settings for fetching.
            loop: the loop whose thread calls all methods.
            slots: how many fetches run at once, if there are enough descriptors.
        """
        self._settings = settings
        self._loop = loop
        self._allow = FetchAllow.parse(settings.fetch_allow)
        self._most = self._permitted = min(slots, descriptors.fetches_within(descriptors.limit()))
        self._running = 0
        self._line: deque[_Fetch] = deque()
        self._filling = False
        self._helpers = Helpers(loop, fetches=slots)
        self._names = Names(loop, self._helpers)
        self._web = Web(loop, settings, connections=self._most * descriptors.A_FETCH)
        self._objects = ObjectStores(settings)
        most = settings.max_redirects
        self._too_many = Failure("too_many_redirects", f"more than {most}")
        self._proxy = _proxy(settings.fetch_proxy) if settings.fetch_proxy else None

    def begin(self, uri: str, root: Path | None, then: Then) -> None:
        """Fetches an image, and calls back once with the body or the failure.

        Args:
            uri: an address on the web, in an object store, or of a file.
            root: a file or folder that is permitted for this image, besides `file_roots`.
            then: called in the loop, perhaps before this returns.
        """
        self._line.append(_Fetch(uri, root, then))
        self._fill()

    def _fill(self) -> None:
        if self._filling:  # called by a fetch that ended at once: the loop below continues
            return
        self._filling = True
        while self._line and self._running < self._most:
            fetch = self._line.popleft()
            self._running += 1
            self._go_on(self._fetch(fetch.uri, fetch.root), partial(self._end, fetch), None)
        self._filling = False

    def _go_on(self, steps: Steps, then: Then, came: object) -> None:
        """Runs a fetch until it waits again or ends."""
        outcome: Fetched | Failure
        try:
            wait = steps.throw(came) if isinstance(came, BaseException) else steps.send(came)
        except StopIteration as ended:
            outcome = ended.value
        except FetchError as error:
            outcome = error.failure
        except MemoryError:
            outcome = NO_MEMORY
        except BaseException as error:  # noqa: BLE001  (any error costs only this image)
            outcome = Failure("internal", f"loader: {error!r}")
        else:
            wait(partial(self._go_on, steps, then))
            return
        then(outcome)

    def _end(self, fetch: _Fetch, outcome: Fetched | Failure) -> None:
        self._running -= 1
        if outcome == NO_DESCRIPTORS and self._running:
            self._run_fewer()
            self._line.appendleft(fetch)
        else:
            fetch.then(outcome)
        self._fill()

    def _run_fewer(self) -> None:
        """Lowers the number of concurrent fetches for a while. The fetch that found no descriptor
        starts again when another one has ended.
        """
        if self._most == self._permitted:
            log.warning(
                "A loader has no descriptors left. For %.0f s it runs only %d fetches at once. "
                "Raise the limit (ulimit -n).", FEWER_FOR_S, self._running
            )  # fmt: skip
            self._loop.later(time.monotonic() + FEWER_FOR_S, self._run_all)
        self._most = self._running

    def _run_all(self) -> None:
        self._most = self._permitted
        self._fill()

    def _fetch(self, uri: str, root: Path | None) -> Steps:
        ends_at = time.monotonic() + self._settings.fetch_deadline_s
        if is_file(uri):
            named = () if root is None else (root,)
            roots, most_bytes = (*self._settings.file_roots, *named), self._settings.max_image_bytes
            read = partial(read_file, uri, roots, max_bytes=most_bytes)
            return Fetched((yield from self._help(read, ends_at, "while reading the file")))
        _refuse_if(refusal(uri, file_roots=(), object_stores=self._settings.object_stores))
        if is_object(uri):
            get = partial(self._objects.fetch, uri)
            late = "the object store did not answer in time"
            body = yield from self._help(get, ends_at, late)
            _refuse_if(body)
            return Fetched(body)
        return (yield from self._follow(uri, ends_at))

    def _help(
        self, work: Callable[[], Any], ends_at: float, late: str
    ) -> Generator[Wait, Any, Any]:
        try:
            return (yield partial(self._helpers.run, work, ends_at))
        except TimeoutError as error:
            raise FetchError(Failure("timeout", late)) from error

    def _follow(self, uri: str, ends_at: float) -> Steps:
        address, redirected = _parse(uri), False
        try:
            for left in reversed(range(self._settings.max_redirects + 1)):
                response = yield from self._ask(address, ends_at)
                if response.location is None:
                    return Fetched(response.body, address.uri if redirected else None)
                redirected = True
                if not left:
                    _refuse_if(self._too_many)
                address = _redirected(address, response.location)
        except FetchError as error:
            if not redirected or error.failure == NO_DESCRIPTORS:
                raise
            detail = f"redirect: {error.failure.detail}"
            raise FetchError(replace(error.failure, detail=detail)) from error
        raise AssertionError("the last request returns or raises")

    def _ask(self, address: WebAddress, ends_at: float) -> Generator[Wait, Any, Response]:
        ports = self._settings.fetch_ports
        if ports and address.port not in ports:
            raise FetchError(
                Failure("blocked_port", f"{address.port} is not in RESNEXT_FETCH_PORTS")
            )
        request = yield from self._prepare(address, ends_at)
        came: Response = yield partial(self._web.ask, request)
        return came

    def _prepare(self, address: WebAddress, ends_at: float) -> Generator[Wait, Any, Request]:
        """Makes the request, with the addresses to which it may connect. With a proxy, which looks
        up names itself, these are the proxy's addresses.
        """
        permits: Callable[[str], bool] = partial(self._permits, address)
        if not address.is_name and not permits(address.host):
            raise FetchError(BLOCKED_ADDRESS)
        host, port, is_name = address.host, address.port, address.is_name
        if self._proxy is not None:
            host, port, is_name = self._proxy
            permits = _permit_all
        if not is_name:
            return Request(address, (), permits, ends_at)
        found = yield from self._look_up(host, port, ends_at)
        permitted = [one for one in found if permits(one)]
        if not permitted:
            raise FetchError(BLOCKED_ADDRESS)
        spelled = ",".join(f"[{one}]" if ":" in one else one for one in permitted)
        return Request(address, (f"+{host}:{port}:{spelled}",), permits, ends_at)

    def _look_up(self, host: str, port: int, ends_at: float) -> Generator[Wait, Any, Addresses]:
        try:
            found: Addresses = yield partial(self._names.look_up, host, port, ends_at)
        except TimeoutError as error:
            raise FetchError(Failure("timeout", "while looking up the host's name")) from error
        if not found:
            raise FetchError(NO_ADDRESS)
        return found

    def _permits(self, address: WebAddress, found: str) -> bool:
        return self._allow.permits(address.host, address.port, parse_address(found))


def _permit_all(_: str) -> bool:
    return True


def _proxy(url: str) -> tuple[str, int, bool]:
    """Returns the proxy's host and port, and whether the host is a name."""
    parts = urlsplit(url)
    host, is_name = spell_host(parts.hostname or "")
    return host, parts.port or 0, is_name


def _refuse_if(refused: object) -> None:
    if isinstance(refused, Failure):
        raise FetchError(refused)


def _parse(uri: str) -> WebAddress:
    try:
        return parse_web(uri)
    except ValueError as error:
        raise FetchError(BAD_URI) from error


def _redirected(address: WebAddress, location: str) -> WebAddress:
    """Returns the address to which a redirect leads.

    Raises:
        FetchError: the redirect leads to something that no URI may name.
    """
    try:
        target = urljoin(address.uri, location)
    except ValueError as error:
        raise FetchError(BAD_URI) from error
    if is_file(target):
        raise FetchError(Failure("blocked_path", "from the web to a file"))
    _refuse_if(refusal(target, file_roots=()))
    return _parse(target)
