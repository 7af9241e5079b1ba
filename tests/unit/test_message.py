"""The message that stands for a chunk: it survives the way, and strangers are refused."""

from __future__ import annotations

import json

import pytest

from contract.message import (
    MESSAGE_VERSION,
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


def test_a_message_survives_json() -> None:
    assert ChunkMessage.decode(json.loads(json.dumps(MESSAGE.encode()))) == MESSAGE


def test_its_version_travels_with_it() -> None:
    assert MESSAGE.encode()["version"] == MESSAGE_VERSION


@pytest.mark.parametrize("version", [MESSAGE_VERSION + 1, 0, "1", None])
def test_another_version_is_refused_and_the_way_out_named(version) -> None:
    with pytest.raises(UnknownMessageVersion, match="upgrade the worker"):
        ChunkMessage.decode(MESSAGE.encode() | {"version": version})


def test_a_message_without_a_version_is_refused() -> None:
    with pytest.raises(UnknownMessageVersion, match="None"):
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
    ],
)
def test_a_message_that_nobody_of_ours_sent_is_refused(change) -> None:
    with pytest.raises(MalformedMessage):
        ChunkMessage.decode(MESSAGE.encode() | change)


@pytest.mark.parametrize("field", sorted(set(MESSAGE.encode()) - {"version"}))
def test_a_missing_field_is_named(field) -> None:
    fields = MESSAGE.encode()
    del fields[field]
    with pytest.raises(MalformedMessage, match=field):
        ChunkMessage.decode(fields)


def test_people_see_the_job_the_chunk_and_how_many_images() -> None:
    assert str(MESSAGE) == "job=abc123 chunk=5 generation=2 images=2"
