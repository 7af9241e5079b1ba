"""The message for a chunk: it survives the journey, and messages of others are refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from contract.broker.message import (
    ALONE_VERSION,
    MESSAGE_VERSION,
    NOTICE_VERSION,
    READ_VERSIONS,
    ChunkMessage,
    MalformedMessage,
    UnknownMessageVersion,
)

MESSAGE = ChunkMessage(
    job="abc123",
    job_number=2**40,
    chunk=5,
    generation=2,
    positions=(320, 322),
    uris=("http://example.org/a.jpg", "http://example.org/ü?b=c"),
)


NOTICE = replace(MESSAGE, positions=(), uris=(), images=2, version=NOTICE_VERSION)


def test_a_message_survives_json() -> None:
    assert ChunkMessage.decode(json.loads(json.dumps(MESSAGE.encode()))) == MESSAGE


def test_a_message_carries_its_version() -> None:
    assert MESSAGE.encode()["version"] == MESSAGE_VERSION


def test_a_newer_version_is_refused_with_what_to_do() -> None:
    with pytest.raises(UnknownMessageVersion, match="upgrade the worker"):
        ChunkMessage.decode(MESSAGE.encode() | {"version": max(READ_VERSIONS) + 1})


@pytest.mark.parametrize("version", [0, -1, "1", None, [1], {}, True, 1.0, 2**70])
def test_a_version_that_is_not_one_of_ours_is_malformed_and_does_not_wait_for_a_newer_worker(
    version,
) -> None:
    with pytest.raises(MalformedMessage, match="version"):
        ChunkMessage.decode(MESSAGE.encode() | {"version": version})


def test_an_image_alone_has_a_version_that_older_workers_leave_to_newer_ones() -> None:
    alone = replace(MESSAGE, positions=(320,), uris=("http://a.org/1",), version=ALONE_VERSION)
    assert alone.encode()["version"] == 2
    assert ChunkMessage.decode(json.loads(json.dumps(alone.encode()))) == alone
    assert (alone.alone, MESSAGE.alone) == (True, False)
    assert str(alone).endswith("images=1 alone")


def test_a_notice_has_the_number_of_images_but_not_their_uris() -> None:
    assert set(NOTICE.encode()) == {
        "job", "job_number", "chunk", "generation", "images", "version",
    }  # fmt: skip
    assert ChunkMessage.decode(json.loads(json.dumps(NOTICE.encode()))) == NOTICE
    assert str(NOTICE) == "job=abc123 chunk=5 generation=2 images=2"


@pytest.mark.parametrize("images", [None, "2", -1, [1], 2**63])
def test_a_notice_without_a_count_is_refused(images) -> None:
    with pytest.raises(MalformedMessage, match="images"):
        ChunkMessage.decode(NOTICE.encode() | {"images": images})


def test_several_images_are_not_alone() -> None:
    with pytest.raises(MalformedMessage, match="2 images, expected one alone"):
        ChunkMessage.decode(MESSAGE.encode() | {"version": ALONE_VERSION})


def test_fields_that_a_newer_program_has_added_are_ignored() -> None:
    assert ChunkMessage.decode(MESSAGE.encode() | {"colour": "blue"}) == MESSAGE


def test_a_message_without_a_version_is_refused() -> None:
    with pytest.raises(MalformedMessage, match="version is None"):
        ChunkMessage.decode({"job": "abc"})


@pytest.mark.parametrize(
    "change",
    [
        {"positions": [1]},
        {"positions": ["one", "two"]},
        {"positions": 12},
        {"positions": "12"},
        {"uris": "ab"},
        {"uris": None},
        {"job_number": "many"},
        {"generation": None},
        {"generation": True},
        {"generation": -1},
        {"chunk": 2**63},
        {"chunk": 1.0},
        {"job": "a" * 33},
        {"job": 5},
        {"uris": ["http://a.example/" + "a" * 200_000, "http://a.example/2"]},
        {"positions": [0] * 257, "uris": ["http://a.example/1"] * 257},
        {"positions": [True, False]},
    ],
)
def test_a_message_that_our_programs_cannot_have_sent_is_refused(change) -> None:
    with pytest.raises(MalformedMessage):
        ChunkMessage.decode(MESSAGE.encode() | change)


@pytest.mark.parametrize("field", sorted(set(MESSAGE.encode()) - {"version"}))
def test_a_missing_field_is_named(field) -> None:
    fields = MESSAGE.encode()
    del fields[field]
    with pytest.raises(MalformedMessage, match=field):
        ChunkMessage.decode(fields)


def test_the_text_of_a_message_shows_job_chunk_and_number_of_images() -> None:
    assert str(MESSAGE) == "job=abc123 chunk=5 generation=2 images=2"
