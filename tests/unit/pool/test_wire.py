"""What loaders send to the worker: every answer fits into its record, whatever a header claims."""

from __future__ import annotations

from math import inf, nan
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from contract.failure import MAX_DETAIL_CHARS, Failure
from contract.uris import MAX_URI_CHARS
from worker.chunk.outcome import Provenance
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

CAME = Provenance(
    final_uri="https://a.example/ü.jpg", bytes=7, sha256="ab" * 32, format="PNG", width=3, height=2
)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(0, None, CAME),
        Answer(5, Failure("timeout", "no answer", 12.5), Provenance()),
        Answer(1, Failure("timeout"), Provenance(), (20.0, -1.0, -1.0)),
        Answer(2, None, CAME, (0.25, 0.0, 0.125), frame=2**32 - 1),
        Answer(2**32 - 1, Failure("http_404", "Not Found"), CAME),
    ],
)
def test_an_answer_survives_packing(answer) -> None:
    assert unpack_answer(pack_answer(answer)) == answer


def test_a_size_that_fits_its_column_is_kept_and_a_larger_one_becomes_unknown() -> None:
    """The header of a PNG may say 4294967295, but results.width is an INTEGER."""
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
def test_impossible_seconds_become_unknown(seconds) -> None:
    """One such value would spoil a sum for the rest of the worker's life."""
    sent = Answer(0, None, CAME, (seconds, 0.5, seconds))
    told = seconds if 0 <= seconds <= 86400 else -1.0
    assert unpack_answer(pack_answer(sent)).measured == (told, 0.5, told)


@pytest.mark.parametrize(
    "spoil", [lambda good: good[:-1], lambda good: good + b"ab", lambda _: b"", bytes.upper]
)
def test_a_damaged_record_is_refused(spoil) -> None:
    with pytest.raises(BadRecord):
        unpack_answer(spoil(pack_answer(Answer(0, Failure("dns", "b"), CAME))))


def test_records_share_packets_while_they_fit() -> None:
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
def test_a_damaged_packet_is_refused(spoil) -> None:
    (good,) = pack_packets([b"abc", b"de"])
    with pytest.raises(BadRecord):
        unpack_packet(spoil(good))


def unpacked(text: str) -> Answer:
    """Packs and unpacks an answer with this text in every field that takes one."""
    came = Provenance(final_uri=text, format=text)
    return unpack_answer(pack_answer(Answer(0, Failure("decode_error", text), came)))


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("two\nlines\r", r"two\nlines\r"),
        ("\u2028\u0085\x9b31m", r"\u2028\x85\x9b31m"),
        ("\u202egpj.exe\u2066", r"\u202egpj.exe\u2066"),
        ("\x00", r"\x00"),
        ("größe 大 é", "größe 大 é"),
    ],
)
def test_a_text_is_safe_on_a_terminal_and_in_a_log(text: str, safe: str) -> None:
    """An attacker who took over a decoder may have written it."""
    answer = unpacked(text)
    assert answer.failure == Failure("decode_error", safe)
    assert answer.provenance == Provenance(final_uri=safe, format=safe)


@given(st.text(min_size=1, max_size=9_000))
@example("\x1b" * 9_000)
def test_every_text_is_one_line_of_limited_length(text: str) -> None:
    failure, came = unpacked(text).failure, unpacked(text).provenance
    assert failure is not None
    for found, most in (
        (failure.detail, MAX_DETAIL_CHARS), (came.final_uri, MAX_URI_CHARS), (came.format, 32)
    ):  # fmt: skip
        assert found is not None
        assert found.isprintable()
        assert len(found) <= most


@pytest.mark.parametrize("root", [None, Path("/a/b"), Path("/\udcff")])
@pytest.mark.parametrize("uri", ["http://a.example/1", "\x00", "\ud800", ""])
def test_a_request_survives_packing(uri: str, root: Path | None) -> None:
    assert unpack_request(pack_request(7, uri, root)) == (7, uri, root)


@pytest.mark.parametrize("record", [b"", b"\0\0\0", b"\0\0\0\0uri", b"\0\0\0\0\0\xff"])
def test_a_damaged_request_is_refused(record: bytes) -> None:
    with pytest.raises(BadRecord):
        unpack_request(record)
