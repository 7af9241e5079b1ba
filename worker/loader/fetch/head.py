"""The headers of an answer: their limits, and the decisions that follow from them.

`worker.loader.fetch.transfer` passes each line that libcurl finds.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import quote

from contract.failure import Failure
from worker.loader.fetch.failures import BAD_RESPONSE, failure_of_status

# Browsers accept this many bytes. No server sends this many lines.
MOST_HEAD_BYTES: Final = 256 * 1024
MOST_LINES: Final = 100
FIRST_FINAL: Final = 200  # lower ones are interim answers
TAKEN: Final = frozenset({200, 203})
BODILESS: Final = frozenset({204, 304})
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
# Codings that zlib can decompress, with its window bits. We never ask for compression, but some
# servers compress anyway.
UNPACKED: Final = {"gzip": 31, "x-gzip": 31, "deflate": 15}
# The other content codings in IANA's registry. Unknown words are ignored.
PACKED: Final = frozenset(
    {"br", "zstd", "compress", "x-compress", "dcb", "dcz", "exi", "pack200-gzip", "aes128gcm"}
)
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: |\r|\n)")
# libcurl does not recognise these headers, and would wait for the end of the connection.
_UNHEARD: Final = re.compile(rb"(?:content-length|transfer-encoding)[ \t]+:", re.IGNORECASE)
_PRINTABLE: Final = "".join(map(chr, range(0x21, 0x7F)))


class Head:
    """The headers of one answer. Interim answers are skipped, but count towards the limits."""

    def __init__(self, forbidding: Callable[[list[str]], str | None]) -> None:
        """
        Args:
            forbidding: returns the directive in X-Robots-Tag lines that forbids the image, or None.
        """
        self.failure: Failure | None = None
        self.location: str | None = None
        """The target of a redirect."""
        self.complete = False
        self.chunked = False
        self.window_bits: int | None = None
        """zlib's window bits to decompress the body; None if it is not compressed."""
        self._forbidding = forbidding
        self._lines: list[bytes] = []
        self._fields: dict[bytes, list[bytes]] = {}
        self._bytes = 0

    def take(self, line: bytes) -> bool:
        """Takes a line. Returns whether to continue with the answer."""
        self._bytes += len(line)
        if self.complete:  # a trailer; libcurl limits them
            return True
        if line.startswith(b"HTTP/"):
            self._lines = []
        self._lines.append(line)
        if self._bytes > MOST_HEAD_BYTES:
            self.failure = Failure("bad_response", f"more than {MOST_HEAD_BYTES} bytes of headers")
        elif len(self._lines) > MOST_LINES:
            self.failure = Failure("bad_response", f"more than {MOST_LINES} headers")
        elif line in (b"\r\n", b"\n"):
            return self._end()
        return self.failure is None

    def _end(self) -> bool:
        """Decides about the answer, and returns whether to read the body. An empty body is read, so
        that the connection stays open.
        """
        match = _STATUS.match(self._lines[0])
        unheard = any(_UNHEARD.match(line) for line in self._lines)
        # 101 switches to another protocol, which we never ask for.
        if match is None or match[1] == b"101" or unheard:
            self.failure = BAD_RESPONSE
            return False
        status = int(match[1])
        if status < FIRST_FINAL:
            return True
        self.complete = True
        for line in self._lines[1:]:
            name, _, value = line.partition(b":")
            self._fields.setdefault(name.strip().lower(), []).append(value.strip())
        location = self._values(b"location")
        if status in REDIRECTS and location:
            self.location = _decode(location[0])
        else:
            self.failure = self._refusal(status)
        if self.failure is None and self.location is None:
            self.chunked = any(b"chunked" in v.lower() for v in self._values(b"transfer-encoding"))
            return True
        return status in BODILESS or self._values(b"content-length") == [b"0"]

    def _refusal(self, status: int) -> Failure | None:
        if status not in TAKEN:
            return failure_of_status(status, retry_after_s(self._texts(b"retry-after")))
        directive = self._forbidding(self._texts(b"x-robots-tag"))
        if directive is not None:
            return Failure("robots", f"X-Robots-Tag: {directive}")
        words = ",".join(self._texts(b"content-encoding")).lower().split(",")
        codings = [word for each in words if (word := each.strip()) in PACKED or word in UNPACKED]
        if len(codings) > 1 or not UNPACKED.keys() >= set(codings):
            return Failure("bad_response", "a Content-Encoding that was not asked for")
        self.window_bits = UNPACKED[codings[0]] if codings else None
        return None

    def _values(self, name: bytes) -> list[bytes]:
        return self._fields.get(name, [])

    def _texts(self, name: bytes) -> list[str]:
        return [value.decode("latin-1") for value in self._values(name)]


def _decode(location: bytes) -> str:
    """Decodes UTF-8, which most servers send. Other bytes are escaped, as in browsers."""
    with suppress(UnicodeDecodeError):
        return re.sub(r"[\x00-\x20\x7f]", lambda found: quote(found[0]), location.decode())
    return quote(location, safe=_PRINTABLE)


def retry_after_s(values: list[str]) -> float | None:
    """Reads a Retry-After header (RFC 9110, 10.2.3): seconds or a date. It uses Python's own date
    parser, because urllib3 would take memory in each loader.
    """
    value = values[0].strip() if values else ""
    if value.isdecimal():
        return float(value)
    # These errors come from invalid dates, such as a year with twenty digits.
    with suppress(ValueError, TypeError, OverflowError):
        moment = parsedate_to_datetime(value)
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max(0.0, (aware - datetime.now(UTC)).total_seconds())
    return None
