"""What loaders send to the worker: every answer fits into its record, whatever a header says."""

from __future__ import annotations

from math import inf, nan

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from contract.failure import Failure
from worker.chunk.outcome import Provenance
from worker.pool.wire import (
    MAX_PACKET_BYTES,
    Answer,
    BadRecord,
    pack_answer,
    pack_packets,
    unpack_answer,
    unpack_packet,
)

CAME = Provenance(
    final_uri="https://a.example/ü.jpg", bytes=7, sha256="ab" * 32, format="PNG", width=3, height=2
)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(0, None, CAME),
        Answer(5, Failure("timeout", "no answer", 12.5), Provenance()),
        Answer(1, Failure("timeout"), Provenance(), (20.0, -1.0, -1.0)),
        Answer(2, None, CAME, (0.25, 0.0, 0.125)),
        Answer(2**32 - 1, Failure("http_404", "Not Found"), CAME),
    ],
)
def test_an_answer_comes_out_as_it_went_in(answer) -> None:
    assert unpack_answer(pack_answer(answer)) == answer


def test_the_largest_size_that_a_column_holds_is_told_and_a_larger_one_is_unknown() -> None:
    """A PNG's header may say 4294967295, and results.width is an INTEGER."""
    failure = Failure("too_many_pixels")
    told = Provenance(width=2**31 - 1, height=1)
    assert unpack_answer(pack_answer(Answer(0, failure, told))).provenance == told
    beyond = Provenance(bytes=2**31, width=2**32 - 1, height=2**31)
    assert unpack_answer(pack_answer(Answer(0, failure, beyond))).provenance == Provenance()


@given(st.floats())
@example(nan)
@example(inf)
@example(-1e-9)
@example(1e300)
def test_seconds_that_no_stage_takes_are_unknown(seconds) -> None:
    """One of them would spoil a sum for as long as the worker lives."""
    sent = Answer(0, None, CAME, (seconds, 0.5, seconds))
    told = seconds if 0 <= seconds <= 86400 else -1.0
    assert unpack_answer(pack_answer(sent)).measured == (told, 0.5, told)


@pytest.mark.parametrize(
    "spoil", [lambda good: good[:-1], lambda good: good + b"ab", lambda _: b"", bytes.upper]
)
def test_what_no_loader_sends_is_no_record(spoil) -> None:
    with pytest.raises(BadRecord):
        unpack_answer(spoil(pack_answer(Answer(0, Failure("dns", "b"), CAME))))


def test_records_share_packets_as_far_as_they_fit() -> None:
    few, many = [b"a", b"bc"], [bytes([n]) * (MAX_PACKET_BYTES // 3) for n in range(5)]
    assert [unpack_packet(packet) for packet in pack_packets(few)] == [few]
    packets = list(pack_packets(many))
    assert [unpack_packet(packet) for packet in packets] == [many[:2], many[2:4], many[4:]]
    assert max(map(len, packets)) <= MAX_PACKET_BYTES
    assert list(pack_packets([])) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda good: good[:-1],
        lambda good: good[:2],
        lambda good: good + b"\xff",
        lambda good: b"\xff\xff\xff\xff" + good[4:],
    ],
)
def test_what_no_loader_packs_is_no_packet(spoil) -> None:
    (good,) = pack_packets([b"abc", b"de"])
    with pytest.raises(BadRecord):
        unpack_packet(spoil(good))
