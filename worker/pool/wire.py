"""The protocol between a worker and its loaders: binary records, several per packet.

A loader first gets its configuration (`worker.loader.config`) and answers `READY`. From then on it
gets requests and sends answers. Records are never pickled: a decoder that was taken over must not
run code in the process that holds the credentials. So the worker trusts no answer. This module
checks every length and number, and raises `BadRecord` if one is wrong; `worker.pool.scheduler`
checks every slot. Texts are escaped and shortened, because people read them in terminals and logs.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache
from math import nan
from pathlib import Path
from typing import Final, NamedTuple

from contract.failure import MAX_DETAIL_CHARS, Failure, is_known
from contract.log import in_one_line
from contract.uris import MAX_URI_CHARS
from worker.chunk.outcome import LOADER_STAGES, NOT_MEASURED, UNKNOWN, Measured, Provenance

# More than a record with a URI of 8192 characters of four bytes and a path of 4096 bytes. The
# kernel permits larger packets.
MAX_PACKET_BYTES: Final = 64 * 1024

_SIZE: Final = struct.Struct("<I")
READY: Final = _SIZE.pack(0)
"""A loader's first packet: one empty record. It means that the loader has started."""
_REQUEST: Final = struct.Struct("<I")  # slot; then the root, a NUL, and the URI
# slot, frame, whether it failed, bytes, width, height (-1: unknown), retry after (NaN: none),
# SHA-256;
# seconds of the fetch, of the wait for the decoder and of the decode (-1: it never began);
# lengths of the texts that follow: format, final URI, error code and its detail
_ANSWER: Final = struct.Struct("<II?iiid32sdddHHHH")
_LARGEST: Final = 2**31 - 1  # as in `results`, where these are INTEGER
# No stage lasts a day. One wrong value would spoil a sum until the worker ends.
_LONGEST_S: Final = 86400.0
_NO_HASH: Final = bytes(32)
# Names of formats are short.
_MOST_FORMAT_CHARS: Final = 32


class BadRecord(ValueError):
    """The record is invalid, so the loader is broken or taken over."""


class Answer(NamedTuple):
    """A loader's answer for one slot."""

    slot: int
    failure: Failure | None
    provenance: Provenance
    measured: Measured = NOT_MEASURED
    """The times of the loader's stages that the image reached."""
    frame: int = 0
    """The frame with the pixels. It has no meaning with a failure."""


def pack_packets(records: Iterable[bytes]) -> Iterator[bytes]:
    """Puts the records into as few packets as possible."""
    packet = bytearray()
    for record in records:
        if packet and len(packet) + _SIZE.size + len(record) > MAX_PACKET_BYTES:
            yield bytes(packet)
            packet.clear()
        packet += _SIZE.pack(len(record))
        packet += record
    if packet:
        yield bytes(packet)


def unpack_packet(packet: bytes) -> list[bytes]:
    """Splits a packet into its records.

    Raises:
        BadRecord: the lengths in the packet do not fit.
    """
    records, begin, end = [], _SIZE.size, len(packet)
    while begin <= end:
        (length,) = _SIZE.unpack_from(packet, begin - _SIZE.size)
        records.append(packet[begin : begin + length])
        begin += length + _SIZE.size
    if begin != end + _SIZE.size:
        raise BadRecord("a packet that ends early")
    return records


def pack_request(slot: int, uri: str, root: Path | None = None) -> bytes:
    permitted = b"" if root is None else os.fsencode(root)
    return _REQUEST.pack(slot) + permitted + b"\0" + uri.encode(errors="surrogatepass")


def unpack_request(record: bytes) -> tuple[int, str, Path | None]:
    """Returns the slot, the URI and the root of a request.

    Raises:
        BadRecord: `pack_request` has not made this record, or its packet was truncated.
    """
    try:
        (slot,) = _REQUEST.unpack_from(record)
        root, nul, uri = record[_REQUEST.size :].partition(b"\0")  # paths contain no NUL
        text = uri.decode(errors="surrogatepass")
    except (struct.error, ValueError) as error:
        raise BadRecord("a request of the wrong form") from error
    if not nul:
        raise BadRecord("a request without a URI")
    return slot, text, Path(os.fsdecode(root)) if root else None


def pack_answer(answer: Answer) -> bytes:
    came, failure = answer.provenance, answer.failure
    retry_after_s = failure.retry_after_s if failure else None
    texts = [
        text.encode(errors="replace")
        for text in (
            came.format or "",
            came.final_uri or "",
            failure.code if failure else "",
            failure.detail if failure else "",
        )
    ]
    head = _ANSWER.pack(
        answer.slot,
        answer.frame,
        failure is not None,
        _as_integer(came.bytes),
        _as_integer(came.width),
        _as_integer(came.height),
        nan if retry_after_s is None else retry_after_s,
        bytes.fromhex(came.sha256) if came.sha256 else _NO_HASH,
        *(answer.measured + NOT_MEASURED)[:LOADER_STAGES],
        *map(len, texts),
    )
    return head + b"".join(texts)


def unpack_answer(record: bytes) -> Answer:
    """Returns a loader's answer.

    Raises:
        BadRecord: a length, a number or the error code is not one that `pack_answer` writes.
    """
    try:
        (
            slot, frame, failed, size, width, height, retry_after_s, sha256,
            fetch_s, decode_wait_s, decode_s,
            format_bytes, uri_bytes, code_bytes, detail_bytes,
        ) = _ANSWER.unpack_from(record)  # fmt: skip
        uri_at = _ANSWER.size + format_bytes
        code_at = uri_at + uri_bytes
        detail_at = code_at + code_bytes
        if detail_at + detail_bytes != len(record):
            raise BadRecord("texts whose lengths do not match the record")
        return Answer(
            slot,
            _failure(record[code_at:detail_at], record[detail_at:], retry_after_s)
            if failed
            else None,
            Provenance(  # without keywords, which take longer
                _safe(record[uri_at:code_at], MAX_URI_CHARS) if uri_bytes else None,
                size if size >= 0 else None,
                None if sha256 == _NO_HASH else sha256.hex(),
                _format(record[_ANSWER.size : uri_at]),
                width if width >= 0 else None,
                height if height >= 0 else None,
            ),
            _credible(fetch_s, decode_wait_s, decode_s),
            frame,
        )
    except (struct.error, UnicodeDecodeError) as error:
        raise BadRecord("a record of the wrong form") from error


def _as_integer(number: int | None) -> int:
    """Returns -1 (unknown) for a number that does not fit; a header may hold any number."""
    return -1 if number is None or number > _LARGEST else number


def _failure(code: bytes, detail: bytes, retry_after_s: float) -> Failure:
    """`retry_after_s` is below 0 or NaN if the server asked for no wait."""
    name = code.decode()
    if not is_known(name):
        raise BadRecord("an unknown error code")
    asked_s = retry_after_s if retry_after_s >= 0 else None
    return Failure(name, _safe(detail, MAX_DETAIL_CHARS), asked_s)


@lru_cache(maxsize=32)
def _format(text: bytes) -> str | None:
    """The format's name. It is cached, because there are few formats and many images."""
    return _safe(text, _MOST_FORMAT_CHARS) or None


def _safe(text: bytes, most_chars: int) -> str:
    return in_one_line(text.decode()[:most_chars])[:most_chars]


def _credible(*stages_s: float) -> Measured:
    """Turns impossible times, such as NaN, into unknown ones."""
    first, second, third = stages_s
    if 0.0 <= first <= _LONGEST_S and 0.0 <= second <= _LONGEST_S and 0.0 <= third <= _LONGEST_S:
        return stages_s
    return tuple(s if 0.0 <= s <= _LONGEST_S else UNKNOWN for s in stages_s)
