"""Fuzzes the records between a worker and its loaders, in both directions: `make fuzz`.

    python -m tests.fuzz.wire [options of libFuzzer] [FILE...]

The bytes are read both as a loader's packet and as a worker's. An attacker who took over a decoder
may have written a loader's packet. An unpacked answer must fit a table and a terminal, and must
pack to the same record again. Everything else must raise `BadRecord`. Any other error ends the
fuzzer, and libFuzzer keeps the packet. Given that file, the fuzzer replays it.
"""

from __future__ import annotations

import math
import random
import sys

import atheris

with atheris.instrument_imports(include=["worker.pool.wire"]):
    from contract.failure import MAX_DETAIL_CHARS, Failure
    from contract.uris import MAX_URI_CHARS
    from worker.chunk.outcome import LOADER_STAGES, UNKNOWN, Provenance
    from worker.pool.wire import (
        MAX_PACKET_BYTES,
        Answer,
        BadRecord,
        pack_answer,
        pack_packets,
        pack_request,
        unpack_answer,
        unpack_packet,
        unpack_request,
    )

MOST_INTEGER = 2**31 - 1  # as in `results`
LONGEST_S = 86_400.0


def run_one(packet: bytes) -> None:
    try:
        records = unpack_packet(packet)
    except BadRecord:
        return
    if len(packet) <= MAX_PACKET_BYTES and all(records):
        assert [r for p in pack_packets(records) for r in unpack_packet(p)] == records
    for record in records:
        _try_answer(record)
        _try_request(record)


def _try_answer(record: bytes) -> None:
    try:
        answer = unpack_answer(record)
    except BadRecord:
        return
    came, failure = answer.provenance, answer.failure
    _check_text(came.final_uri, MAX_URI_CHARS)
    _check_text(came.format, 32)
    assert all(n is None or 0 <= n <= MOST_INTEGER for n in (came.bytes, came.width, came.height))
    assert len(answer.measured) == LOADER_STAGES
    assert all(s == UNKNOWN or 0 <= s <= LONGEST_S for s in answer.measured)
    if failure is not None:
        _check_text(failure.detail, MAX_DETAIL_CHARS)
        asked_s = failure.retry_after_s
        assert asked_s is None or (asked_s >= 0 and not math.isnan(asked_s))
    assert unpack_answer(pack_answer(answer)) == answer


def _check_text(text: str | None, most_chars: int) -> None:
    assert text is None or (text.isprintable() and len(text) <= most_chars)


def _try_request(record: bytes) -> None:
    try:
        slot, uri, root = unpack_request(record)
    except BadRecord:
        return
    assert unpack_request(pack_request(slot, uri, root)) == (slot, uri, root)


def mutate(packet: bytes, most_bytes: int, seed: int) -> bytes:
    """Mutates as libFuzzer does, and sometimes starts again from a valid packet.

    Otherwise the lengths in front of records and texts would hide everything behind them.
    """
    chosen = random.Random(seed)
    if chosen.random() < 1 / 3:
        return _sound_packet(chosen)[:most_bytes]
    return bytes(atheris.Mutate(packet, most_bytes))


def _sound_packet(chosen: random.Random) -> bytes:
    def text() -> str:
        return "".join(chr(chosen.choice((27, 10, 65, 233, 0x202E, 0x9B))) for _ in range(7))

    came = Provenance(final_uri=text(), bytes=7, sha256="ab" * 32, format="PNG", width=3, height=2)
    failure = chosen.choice((None, Failure("timeout", text(), chosen.choice((None, 2.5)))))
    records = [
        pack_answer(Answer(chosen.randrange(2**32), failure, came, frame=chosen.randrange(2**32))),
        pack_request(chosen.randrange(2**32), text(), None),
    ]
    return next(pack_packets(chosen.sample(records, chosen.randint(1, 2))))


def main() -> None:
    atheris.Setup(sys.argv, run_one, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
