"""The process that libFuzzer runs: it decodes one mutated image after another, as a loader does.

    python -m tests.fuzz.target [options of libFuzzer] CORPUS [FILE...]

If it gets files instead of folders, it decodes just those, which replays a finding. An outcome that
is neither pixels nor a listed error code ends the process, and libFuzzer keeps the image. Coverage
includes Pillow's readers and our own code in Python, but not the C libraries behind them.
"""

from __future__ import annotations

import struct
import sys
import zlib

import atheris

with atheris.instrument_imports(include=["PIL", "pillow_heif", "resnext"]):
    from contract.failure import ERROR_CODES
    from resnext.picture.decode import DecodeLimits
    from tests.pictures.decoder import ending_of, limit_as_a_loader

# So small that even the largest picture is decoded a thousand times a minute.
LIMITS = DecodeLimits(max_pixels=250_000)
PERMITTED = {"pixels", *ERROR_CODES} - {"internal"}
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def run_one(body: bytes) -> None:
    code, detail = ending_of(body, LIMITS)
    if code not in PERMITTED:
        raise AssertionError(f"{code}: {detail}")


def mutate(body: bytes, most_bytes: int, seed: int) -> bytes:
    """Mutates as libFuzzer does, and repairs a PNG's checksums, which no mutation would pass."""
    mutated = bytes(atheris.Mutate(body, most_bytes))
    if mutated.startswith(PNG_MAGIC) and seed % 4:
        return _with_checksums(mutated)[:most_bytes]
    return mutated


def _with_checksums(png: bytes) -> bytes:
    mended, at = bytearray(png), len(PNG_MAGIC)
    while at + 12 <= len(png):
        (length,) = struct.unpack_from(">I", png, at)
        end = at + 8 + length
        if end + 4 > len(png):
            break
        struct.pack_into(">I", mended, end, zlib.crc32(png[at + 4 : end]))
        at = end + 4
    return bytes(mended)


def main() -> None:
    limit_as_a_loader(LIMITS)
    atheris.Setup(sys.argv, run_one, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
