"""What a worker and its loaders say to each other: fixed binary records, one a packet.

Never pickle: a decoder that has been taken over must not run code in the process that holds
the credentials. So the worker trusts nothing that comes back: every length and number is
checked here, every slot by `worker.loaders`, and whatever does not fit is `BadRecord`.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path
from typing import Final

from contract.error_codes import Failure, is_known
from worker.outcome import LOADER_STAGES, NOT_MEASURED, UNKNOWN, Measured, Provenance

# A URI of 8192 characters of four bytes, a path of 4096 bytes, and a header; the kernel's packets
# may be larger.
MAX_RECORD_BYTES: Final = 48 * 1024

_LOAD: Final = struct.Struct("<I")  # slot; then the root, a NUL, and the URI
# slot, whether it failed, bytes, width, height (-1: unknown), retry after (NaN: none), SHA-256;
# seconds of fetch, of the wait for the decoder and of decoding (-1: it did not come to that)
_DONE: Final = struct.Struct("<I?iiid32sddd")
_LARGEST: Final = 2**31 - 1  # as in `results`, where these are INTEGER
# A sum that one lie has spoilt stays so until the worker ends; no stage lasts a day.
_LONGEST_S: Final = 86400.0
_LENGTH: Final = struct.Struct("<H")
_NO_HASH: Final = bytes(32)


class BadRecord(ValueError):
    """No record of ours: the loader is broken, or not ours any more."""


@dataclass(frozen=True)
class Done:
    """A loader's answer for one slot. Without a failure, the slot holds the pixels."""

    slot: int
    failure: Failure | None
    provenance: Provenance
    measured: Measured = NOT_MEASURED
    """A loader's stages, or as many of them as it came to."""


def pack_load(slot: int, uri: str, root: Path | None = None) -> bytes:
    permitted = b"" if root is None else os.fsencode(root)
    return _LOAD.pack(slot) + permitted + b"\0" + uri.encode(errors="surrogatepass")


def unpack_load(record: bytes) -> tuple[int, str, Path | None]:
    (slot,) = _LOAD.unpack_from(record)
    root, _, uri = record[_LOAD.size :].partition(b"\0")  # no path has a NUL
    return slot, uri.decode(errors="surrogatepass"), Path(os.fsdecode(root)) if root else None


def pack_done(done: Done) -> bytes:
    came, failure = done.provenance, done.failure
    retry_after_s = failure.retry_after_s if failure else None
    head = _DONE.pack(
        done.slot,
        failure is not None,
        _as_integer(came.bytes),
        _as_integer(came.width),
        _as_integer(came.height),
        nan if retry_after_s is None else retry_after_s,
        bytes.fromhex(came.sha256) if came.sha256 else _NO_HASH,
        *(done.measured + NOT_MEASURED)[:LOADER_STAGES],
    )
    texts = (
        came.format or "",
        came.final_uri or "",
        failure.code if failure else "",
        failure.detail if failure else "",
    )
    return head + b"".join(map(_pack_text, texts))


def unpack_done(record: bytes) -> Done:
    """
    Raises:
        BadRecord: lengths, numbers or the error code are not as `pack_done` makes them.
    """
    try:
        fields = _DONE.unpack_from(record)
        slot, failed, size, width, height, retry_after_s, sha256 = fields[:-LOADER_STAGES]
        image_format, final_uri, code, detail = _unpack_texts(record, _DONE.size)
    except (struct.error, ValueError) as error:
        raise BadRecord("a record of the wrong form") from error
    if failed and not is_known(code):
        raise BadRecord("an unknown error code")
    retry = None if isnan(retry_after_s) or retry_after_s < 0 else retry_after_s
    return Done(
        slot,
        Failure(code, detail, retry) if failed else None,
        Provenance(
            final_uri=final_uri or None,
            bytes=_known(size),
            sha256=None if sha256 == _NO_HASH else sha256.hex(),
            format=image_format or None,
            width=_known(width),
            height=_known(height),
        ),
        _credible(*fields[-LOADER_STAGES:]),
    )


def _as_integer(number: int | None) -> int:
    """An image's header may say anything: what does not fit is as good as unknown."""
    return -1 if number is None or number > _LARGEST else number


def _known(number: int) -> int | None:
    return None if number < 0 else number


def _credible(*stages_s: float) -> Measured:
    """What no clock measures is unknown; NaN is in no range."""
    for seconds in stages_s:
        if not 0.0 <= seconds <= _LONGEST_S:
            return tuple(s if 0.0 <= s <= _LONGEST_S else UNKNOWN for s in stages_s)
    return stages_s


def _pack_text(text: str) -> bytes:
    content = text.encode(errors="replace")
    return _LENGTH.pack(len(content)) + content


def _unpack_texts(record: bytes, begin: int) -> list[str]:
    texts = []
    while begin < len(record):
        (length,) = _LENGTH.unpack_from(record, begin)
        begin += _LENGTH.size
        content = record[begin : begin + length]
        if len(content) != length:
            raise BadRecord("a text that ends early")
        texts.append(content.decode())
        begin += length
    return texts
