"""Uploaded pictures are kept where workers read them, or refused without leaving anything."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

import pytest
from sqlalchemy import Engine

from contract.database.engine import make_engine
from contract.errors import UsageError
from contract.settings import Settings
from producer.api import incoming
from producer.api.uploads import INCOMING, LEFT_S, Picture, open_uploads
from tests.pictures.demo import GOOD
from tests.servers.api import Api, serve
from tests.servers.objects import S3Server, serving_s3
from tests.wait import until

JPEG = GOOD.read_bytes()
PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
MOST_BYTES = 300_000
FORM = "multipart/form-data; boundary=x"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The upload folder. Its name has a space, which URIs escape, and a comma, as lists have."""
    folder = tmp_path / "up loads,1"
    folder.mkdir()
    return folder


@pytest.fixture
def settings(tmp_path: Path, sqlite_database: str, folder: Path) -> Settings:
    return Settings(
        home=tmp_path / "home", database_url=sqlite_database, uploads=str(folder),
        max_image_bytes=MOST_BYTES, api_body_bytes=2_000_000,
    )  # fmt: skip


@pytest.fixture
def engine(sqlite_database: str) -> Iterator[Engine]:
    engine = make_engine(sqlite_database)
    yield engine
    engine.dispose()


def kept(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def coming(folder: Path) -> list[Path]:
    return list((folder / INCOMING).iterdir())


def path_of(uri: str) -> Path:
    return Path(url2pathname(urlsplit(uri).path))


def test_pictures_are_kept_and_become_a_job(api: Api, folder: Path) -> None:
    """The answer is valid input for a job. No file name from the client reaches the disk."""
    files = [
        ("a", ("../../cat.png", JPEG, "text/html")),
        ("b", ("dog.jpg", PNG)),
        ("b", ('"\u00e9\n".gif', JPEG)),
    ]
    answer = api.submitter.post("/v1/images", files=files)
    assert answer.status_code == 201, answer.text
    images = answer.json()["images"]
    paths = [path_of(image["uri"]) for image in images]
    assert [path.read_bytes() for path in paths] == [JPEG, PNG, JPEG]
    assert [path.suffix for path in paths] == [".jpg", ".png", ".jpg"]
    assert [image["ref"] for image in images][:2] == ["../../cat.png", "dog.jpg"]
    assert sorted(paths) == sorted(kept(folder))
    for path in paths:
        assert not {"cat", "dog"} & set(path.stem.split("."))
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask()
    assert coming(folder) == []
    job = api.submitter.post("/v1/jobs", json={"images": images})
    assert (job.status_code, job.json()["total"]) == (201, 3), job.text


def umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now


def test_the_same_picture_twice_is_kept_twice(api: Api, folder: Path) -> None:
    files = [("a", ("a.jpg", JPEG)), ("a", ("a.jpg", JPEG))]
    for _ in range(2):
        assert api.submitter.post("/v1/images", files=files).status_code == 201
    assert len(kept(folder)) == 4


def body_of(*parts: bytes, end: bytes = b"--x--\r\n") -> bytes:
    return b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + end


NAMED = b'Content-Disposition: form-data; name="a"; filename="a.jpg"\r\n\r\n'
BAD_IMAGE = (422, "bad_image")
BAD = (422, "bad_request")
TOO_LARGE = (413, "too_large")
REFUSED: dict[str, tuple[dict[str, Any], tuple[int, str], str]] = {
    "a text": (
        {"files": [("a", ("a.jpg", JPEG)), ("b", ("b.jpg", b"hello" * 50))]}, BAD_IMAGE,
        "Picture 2 ('b.jpg') is not a picture: it begins with b'hellohel'. The formats are JPEG,",
    ),
    "a short text": ({"files": {"a": ("a.jpg", b"BMW")}}, BAD_IMAGE, "begins with b'BMW'"),
    "an empty file": ({"files": {"a": ("", b"")}}, BAD_IMAGE, "Picture 1 is not a picture: it is"),
    "a picture that is too large": (
        {"files": [("a", ("a.jpg", JPEG)), ("a", ("b.jpg", PNG + bytes(MOST_BYTES)))]}, TOO_LARGE,
        "Picture 2 ('b.jpg') has more than 300,000 bytes, which workers would refuse",
    ),
    "a body that is too large": (
        {"files": [("a", ("a.jpg", PNG + bytes(290_000)))] * 7}, TOO_LARGE, "limit is 2,000,000",
    ),
    "too many": ({"files": [("a", ("a.png", PNG))] * 4}, TOO_LARGE, "more than 3 pictures"),
    "a field without a file": (
        {"files": {"a": (None, b"text")}}, BAD, "The part 'a' has no file name",
    ),
    "no parts": (
        {"data": b"--x--\r\n", "headers": {"Content-Type": FORM}}, BAD, "no pictures",
    ),
    "nothing": ({"data": b"", "headers": {"Content-Type": FORM}}, BAD, "ends before"),
    "a body that ends early": (
        {"data": body_of(NAMED + JPEG, end=b""), "headers": {"Content-Type": FORM}}, BAD,
        "ends before its last boundary",
    ),
    "no multipart": (
        {"data": JPEG, "headers": {"Content-Type": FORM}}, BAD, "not valid multipart/form-data",
    ),
    "a part without headers": (
        {"data": body_of(b"\r\n" + JPEG), "headers": {"Content-Type": FORM}}, BAD, "no file name",
    ),
    "endless headers": (
        {"data": body_of(b"A: " + b"a" * 10_000), "headers": {"Content-Type": FORM}}, BAD,
        "not valid multipart/form-data",
    ),
    "no boundary": (
        {"data": JPEG, "headers": {"Content-Type": "multipart/form-data"}}, BAD, "no boundary",
    ),
    "a boundary that is too long": (
        {"data": JPEG, "headers": {"Content-Type": f"{FORM}{'x' * 300}"}}, BAD, "Boundary length",
    ),
    "a picture without a form": (
        {"data": JPEG, "headers": {"Content-Type": "image/jpeg"}}, (415, "unsupported_type"),
        "'image/jpeg', but pictures must be sent as multipart/form-data",
    ),
    "no type": ({"data": JPEG}, (415, "unsupported_type"), "pictures must be sent as"),
}  # fmt: skip


@pytest.mark.parametrize(("sent", "status", "detail"), REFUSED.values(), ids=REFUSED)
def test_a_refused_upload_leaves_nothing(  # noqa: PLR0917
    api: Api, folder: Path, monkeypatch, sent: dict[str, Any], status: tuple[int, str], detail: str
) -> None:
    if "more than 3" in detail:
        monkeypatch.setattr(incoming, "MOST_PICTURES", 3)
    answer = api.submitter.post("/v1/images", **sent)
    told = answer.json()
    assert (answer.status_code, told["code"]) == status, told
    assert detail in told["detail"]
    assert (kept(folder), coming(folder)) == ([], [])


def test_an_interrupted_upload_leaves_nothing(api: Api, folder: Path) -> None:
    host, port = api.url.removeprefix("http://").split(":")
    body = body_of(NAMED + PNG + bytes(250_000))
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /v1/images HTTP/1.1\r\nHost: a\r\nContent-Type: %b\r\nContent-Length: %d\r\n"
            b"Authorization: Bearer %b\r\n\r\n%b"
            % (FORM.encode(), len(body) + 1_000, (api.submitter.key or "").encode(), body[:-5])
        )
        until(lambda: coming(folder))
    until(lambda: not coming(folder))
    assert kept(folder) == []


def test_the_refusal_says_how_to_turn_uploads_on(engine: Engine, settings: Settings) -> None:
    for api in serve(engine, settings.model_copy(update={"uploads": None})):
        answer = api.submitter.post("/v1/images", files={"a": ("a.jpg", JPEG * 20)})
        assert (answer.status_code, answer.json()["code"]) == (404, "uploads_off")
        assert "Set RESNEXT_UPLOADS" in answer.json()["detail"]


def test_a_folder_that_cannot_be_written_is_reported(api: Api, folder: Path) -> None:
    send = {"files": {"a": ("a.jpg", JPEG)}}
    assert api.submitter.post("/v1/images", **send).status_code == 201
    (day,) = (path for path in folder.iterdir() if path.name != INCOMING)
    for path in day.iterdir():
        path.unlink()
    day.rmdir()
    day.write_text("no folder")
    (folder / INCOMING).rmdir()
    answers = [api.submitter.post("/v1/images", **send)]  # the incoming part cannot be stored
    (folder / INCOMING).mkdir()
    answers.append(api.submitter.post("/v1/images", **send))  # the complete picture cannot be moved
    for answer in answers:
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert f"cannot be kept in {folder}: " in answer.json()["detail"]
    assert coming(folder) == []


def test_if_one_picture_cannot_be_kept_none_is(settings: Settings, folder: Path) -> None:
    uploads = open_uploads(settings)
    assert uploads is not None
    with uploads.incoming() as place:
        (place / "0").write_bytes(JPEG)
        pictures = [
            Picture(path=place / name, ending=".jpg", ref=None) for name in ("0", "missing")
        ]
        with pytest.raises(FileNotFoundError):
            uploads.keep(pictures)
    assert (kept(folder), coming(folder)) == ([], [])


def test_what_a_killed_server_left_is_removed(settings: Settings, folder: Path) -> None:
    for name in ("old", "new"):
        (folder / INCOMING / name).mkdir(parents=True)
        (folder / INCOMING / name / "0").write_bytes(JPEG)
    then = (folder / INCOMING / "old").stat().st_mtime - 2 * LEFT_S
    os.utime(folder / INCOMING / "old", (then, then))
    open_uploads(settings)
    assert [path.name for path in coming(folder)] == ["new"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"uploads": "/nowhere/at/all"}, "at/all, but there is no such folder. Create it."),
        ({"uploads": "s3://bucket/a/"}, "s3: is not enabled by RESNEXT_OBJECT_STORES"),
    ],
)
def test_a_bad_place_for_uploads_is_refused(wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_uploads(Settings(**wanted))


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    with serving_s3() as server:
        server.make_bucket("pictures")
        yield server


def serving_to(prefix: str, engine: Engine, settings: Settings, s3: S3Server) -> Iterator[Api]:
    place = {"uploads": prefix, "object_stores": ("s3",), "s3_endpoint": s3.endpoint}
    yield from serve(engine, settings.model_copy(update=place))


def test_pictures_are_kept_in_an_object_store(
    engine: Engine, settings: Settings, s3: S3Server
) -> None:
    files = [("a", ("a.jpg", JPEG)), ("b", ("b.png", PNG))]
    for api in serving_to("s3://pictures/in%20here/", engine, settings, s3):
        images = api.submitter.post("/v1/images", files=files).json()["images"]
        keys = [unquote(image["uri"]).removeprefix("s3://pictures/") for image in images]
        assert [s3.get("pictures", key) for key in keys] == [JPEG, PNG]
        assert {key.partition("/")[0] for key in keys} == {"in here"}
        job = api.submitter.post("/v1/jobs", json={"images": images})
        assert job.status_code == 201, job.text


def test_an_object_store_that_refuses_pictures_is_reported(
    engine: Engine, settings: Settings, s3: S3Server
) -> None:
    for api in serving_to("s3://missing/", engine, settings, s3):
        answer = api.submitter.post("/v1/images", files={"a": ("a.jpg", JPEG)})
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert "cannot be kept in s3://missing/: " in answer.json()["detail"]


def test_a_read_key_cannot_upload(api: Api, folder: Path) -> None:
    answer = api.reader.post("/v1/images", files={"a": ("a.jpg", JPEG)})
    assert (answer.status_code, answer.json()["code"]) == (403, "scope")
    assert kept(folder) == []
