"""A libcurl transfer, which handles one request at once: its options, callbacks and result.

`worker.loader.fetch.web` runs transfers in the loop, and reuses them for later requests.
"""

from __future__ import annotations

import os
import socket
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

import pycurl

from contract import VERSION
from contract.failure import Failure
from worker.loader.fetch import descriptors
from worker.loader.fetch.certificates import find_authorities
from worker.loader.fetch.codes import TOO_LARGE, failure_of
from worker.loader.fetch.failures import (
    BAD_RESPONSE,
    BLOCKED_ADDRESS,
    INTERRUPTED,
    NO_DESCRIPTORS,
    TOO_LATE,
    FetchError,
    too_large,
)
from worker.loader.fetch.head import Head
from worker.loader.fetch.robots import OUR_NAME, forbidding
from worker.loader.fetch.settings import FetchSettings
from worker.loader.fetch.web_address import WebAddress

# An option that pycurl has no name for. It keeps the proxy's headers from the header callback.
SUPPRESS_CONNECT_HEADERS: Final = 265
ACCEPT: Final = "Accept: image/*,*/*;q=0.5"
PIECE_BYTES: Final = 128 * 1024
RAW_DEFLATE: Final = -15


@dataclass(frozen=True)
class Request:
    address: WebAddress
    resolved: tuple[str, ...]
    """`host:port:addresses` in libcurl's form. Empty if the URI has an address, not a name."""
    permits: Callable[[str], bool]
    """Whether a connection may go to this address."""
    ends_at: float


@dataclass(frozen=True)
class Response:
    body: bytes
    location: str | None
    """The target of a redirect. Then there is no body."""


class _Descriptor:
    """A socket that pycurl duplicates."""

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        return self._number

    def __del__(self) -> None:
        os.close(self._number)


class Transfer:
    """Owns a libcurl handle, and what it has received for its request."""

    def __init__(self, settings: FetchSettings, when_chunked: Callable[[Transfer], object]) -> None:
        """
        Args:
            settings: the settings for fetching.
            when_chunked: called when a body starts whose bytes libcurl does not limit.
        """
        self._settings = settings
        self._when_chunked = when_chunked
        self.curl = pycurl.Curl()
        self.descriptor = -1
        """The connection's descriptor, if its bytes are counted."""
        self._set_up()
        self._forget()

    def begin(self, request: Request) -> None:
        """Sets up the handle for a request.

        Raises:
            FetchError: the deadline has passed.
        """
        address, left_s = request.address, request.ends_at - time.monotonic()
        if left_s <= 0:
            raise FetchError(TOO_LATE)
        self._forget()
        self._request = request
        left_ms = max(1, round(left_s * 1000))
        set_option = self.curl.setopt
        # Built from the checked parts, because libcurl might parse the URI differently.
        url = f"{address.scheme}://{address.authority}:{address.port}"
        is_relayed = self._settings.fetch_proxy is not None and address.scheme == "http"
        set_option(pycurl.URL, url)
        target = url + address.target if is_relayed else address.target
        set_option(pycurl.REQUEST_TARGET, target)
        set_option(pycurl.RESOLVE, list(request.resolved))
        set_option(pycurl.TIMEOUT_MS, left_ms)
        set_option(pycurl.CONNECTTIMEOUT_MS, left_ms)
        set_option(pycurl.HTTPHEADER, self._headers_for(address.host))

    def response(self, code: int, words: str) -> Response:
        """Returns the response after libcurl has finished.

        Raises:
            FetchError: the request failed.
        """
        head, body, most_bytes = self._head, self._body, self._settings.max_image_bytes
        refused = self._refused
        self._forget()  # keeps the handle but not the body
        if head.failure is not None:
            raise FetchError(head.failure)
        if head.location is not None:
            return Response(b"", head.location)
        if code == pycurl.E_FILESIZE_EXCEEDED or (code == TOO_LARGE and head.complete):
            raise FetchError(too_large(most_bytes))
        if code == pycurl.E_COULDNT_CONNECT and refused is not None:
            raise FetchError(refused)
        if code:
            known = map(self.curl.getinfo, (pycurl.SSL_VERIFYRESULT, pycurl.OS_ERRNO))
            raise FetchError(failure_of(code, words, *known))
        if not head.complete:
            raise FetchError(INTERRUPTED)
        return Response(unpack(body.getvalue(), head.window_bits, most_bytes), None)

    def _forget(self) -> None:
        ignored = self._settings.robots != "honour"
        self._head = Head((lambda _: None) if ignored else forbidding)
        self.descriptor = -1
        self._body = BytesIO()
        self._refused: Failure | None = None

    def _set_up(self) -> None:
        proxy, contact = self._settings.fetch_proxy, self._settings.contact
        about = f"; {contact}" if contact else ""
        file, folder = find_authorities()
        options: dict[int, Any] = {
            pycurl.NOSIGNAL: 1,
            # libcurl must not handle redirects, cookies, logins or compression.
            pycurl.FOLLOWLOCATION: 0,
            pycurl.NETRC: pycurl.NETRC_IGNORED,
            pycurl.HTTP_CONTENT_DECODING: 0,
            pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
            pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,
            pycurl.HTTP09_ALLOWED: 0,
            pycurl.MAXFILESIZE_LARGE: self._settings.max_image_bytes,
            pycurl.BUFFERSIZE: PIECE_BYTES,
            # Only the setting names a proxy. libcurl ignores the environment.
            pycurl.PROXY: proxy or "",
            pycurl.NOPROXY: "" if proxy else "*",
            SUPPRESS_CONNECT_HEADERS: 1,
            pycurl.SSL_VERIFYPEER: 1,
            pycurl.SSL_VERIFYHOST: 2,
            pycurl.HEADERFUNCTION: self._take_header,
            pycurl.WRITEFUNCTION: self._take_piece,
            pycurl.OPENSOCKETFUNCTION: self._open,
            pycurl.USERAGENT: f"{OUR_NAME}/{VERSION} (image classifier{about})",
            # This refuses libcurl's own look-ups. Hanging names would occupy its 20 threads.
            pycurl.RESOLVER_START_FUNCTION: lambda *_: bool(self._request.resolved),
        }
        for ours, proxys, path in (
            (pycurl.CAINFO, pycurl.PROXY_CAINFO, file),
            (pycurl.CAPATH, pycurl.PROXY_CAPATH, folder),
        ):
            options |= dict.fromkeys((ours, proxys), path and str(path))
        for option, value in options.items():
            self.curl.setopt(option, value)

    def _headers_for(self, host: str) -> list[str]:
        """Our headers, and those that the operator has set for this host only."""
        more = self._settings.fetch_headers.get(host, ())
        own = [ACCEPT] if not any(one.lower().startswith("accept:") for one in more) else []
        return [*own, "Accept-Encoding: identity", *more]

    def _take_header(self, line: bytes) -> int:
        """Takes a header line. libcurl ends the transfer unless this returns the line's length."""
        try:
            goes_on = self._head.take(line)
            if self._head.chunked and line.isspace():
                self._when_chunked(self)
        except Exception as error:  # noqa: BLE001  (pycurl would drop it)
            self._head.failure, goes_on = Failure("internal", f"loader: {error!r}"), False
        return len(line) if goes_on else -1

    def _take_piece(self, piece: bytes) -> None:
        self._body.write(piece)

    def _open(self, _: int, found: tuple[int, int, int, Any]) -> object:
        """Opens a socket for this address, after checking the address once more."""
        family, kind, protocol, address = found
        if not self._request.permits(str(address[0])):
            self._refused = BLOCKED_ADDRESS
            return pycurl.SOCKET_BAD
        sys.audit("socket.connect", None, address)
        try:
            opened = _Descriptor(socket.socket(family, kind, protocol).detach())
        except OSError:
            opened = None
        if opened is None or not descriptors.are_left():  # pycurl needs a second descriptor
            self._refused = NO_DESCRIPTORS
            return pycurl.SOCKET_BAD
        return opened


def unpack(body: bytes, window_bits: int | None, most_bytes: int) -> bytes:
    """Decompresses a body.

    Raises:
        FetchError: the body is too large, or not compressed in this way.
    """
    try:
        if window_bits is not None:
            body = _inflate(body, window_bits, most_bytes)
    except zlib.error as error:
        raise FetchError(BAD_RESPONSE) from error
    if len(body) > most_bytes:
        raise FetchError(too_large(most_bytes))
    return body


def _inflate(body: bytes, window_bits: int, most_bytes: int) -> bytes:
    """Returns at most one byte more than `most_bytes`. Handles deflate without zlib's header, which
    some servers send.
    """
    tried: Sequence[int] = (window_bits,) if window_bits > zlib.MAX_WBITS else (15, RAW_DEFLATE)
    for bits in tried:
        unpacking = zlib.decompressobj(bits)
        try:
            unpacked = unpacking.decompress(body, most_bytes + 1)
        except zlib.error:
            if bits == tried[-1]:
                raise
        else:
            return unpacked
    raise AssertionError("the last try returns or raises")
