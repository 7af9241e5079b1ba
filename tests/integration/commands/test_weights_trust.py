"""Weights without a published hash are pinned at their first use. No link redirects a download."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from contract.check import Check
from contract.settings import Settings
from resnext import classifier
from resnext.errors import DamagedWeights, ForeignWeights, WeightsError
from resnext.network import build_network
from resnext.spec import catalogue
from resnext.weights.download import download
from resnext.weights.random import draw_weights
from tests.servers.publisher import CONTENT, SHA256, Publisher, publishing
from worker.commands.doctor import _published

MODEL = "resnext_tiny_imagenet"  # small, so that it loads soon
NAME = "weights.pth"


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with publishing() as published:
        yield published


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """A network's weights, and the same with another bias."""
    folder = tmp_path_factory.mktemp("published")
    spec = catalogue.find_spec(MODEL)
    network = build_network(spec)
    draw_weights(network, spec)
    tensors = network.state_dict()
    bodies = []
    for n in range(2):
        torch.save(tensors | {"fc.bias": tensors["fc.bias"] + n}, folder / NAME)
        bodies.append((folder / NAME).read_bytes())
    return bodies[0], bodies[1]


Load = Callable[[], str]


@pytest.fixture
def load(publisher: Publisher, files, tmp_path: Path, monkeypatch) -> Load:
    """A function that loads published weights without a known hash, and returns their hash."""
    publisher.content = files[0]
    spec = catalogue.find_spec(MODEL)
    monkeypatch.setitem(spec.weights, "hub", publisher.file())

    def load() -> str:
        return classifier.load_classifier(
            MODEL, "hub", device="cpu", cache=tmp_path, batch_images=1
        ).weights_sha256

    return load


def told(cache: Path) -> Check:
    """What `doctor` reports for these weights."""
    spec = catalogue.find_spec(MODEL)
    return _published(Settings(cache=cache), spec, "hub", served=True)


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def test_the_first_use_pins_the_hash_for_each_later_one(
    load: Load, publisher: Publisher, files, tmp_path: Path
) -> None:
    weights, pinned = tmp_path / "weights" / NAME, tmp_path / "weights" / f"{NAME}.sha256"
    assert load() == sha256(files[0])
    assert pinned.read_text() == f"{sha256(files[0])}  {NAME}\n"
    assert "checked: as pinned by the first use" in told(tmp_path).found
    assert load() == sha256(files[0])

    weights.write_bytes(files[1])  # valid weights, but different ones
    with pytest.raises(DamagedWeights, match="at the first use") as refused:
        load()
    assert str(pinned) in str(refused.value)
    check = told(tmp_path)
    assert check.state == "failure"
    assert f"mismatch: the first use pinned {sha256(files[0])}" in check.found
    assert f"delete {pinned}" in check.advice

    pinned.unlink()  # as the message advises
    assert load() == sha256(files[1])


def test_another_file_at_a_later_download_is_refused(
    load: Load, publisher: Publisher, files, tmp_path: Path
) -> None:
    load()
    (tmp_path / "weights" / NAME).unlink()
    assert f"an earlier use pinned SHA-256 {sha256(files[0])}" in told(tmp_path).found
    publisher.content = files[1]
    publisher.etag = '"version-2"'
    with pytest.raises(DamagedWeights, match="at the first use"):
        load()
    assert not (tmp_path / "weights" / NAME).exists()
    publisher.content = files[0]
    assert load() == sha256(files[0])


def test_a_file_that_does_not_load_is_not_pinned(
    load: Load, publisher: Publisher, tmp_path: Path
) -> None:
    """The file here is a login page, as a hotel's network sends it."""
    publisher.content = b"<html>Please log in</html>"
    with pytest.raises((DamagedWeights, ForeignWeights)):
        load()
    assert not (tmp_path / "weights" / f"{NAME}.sha256").exists()
    assert "the next use pins it" in told(tmp_path).found


@pytest.mark.parametrize("content", ["nothing of the kind", "ab" * 32, "0" * 65 + "  x\n"])
def test_a_malformed_pin_is_an_error(load: Load, tmp_path: Path, content) -> None:
    load()
    (tmp_path / "weights" / f"{NAME}.sha256").write_text(content)
    with pytest.raises(WeightsError, match="contains no SHA-256"):
        load()


def test_weights_load_from_a_read_only_cache(load: Load, tmp_path, monkeypatch) -> None:
    load()
    pinned = tmp_path / "weights" / f"{NAME}.sha256"
    pinned.unlink()
    # This acts like a read-only file system, which stops root as well.
    monkeypatch.setattr(Path, "replace", _read_only)
    load()
    assert not pinned.exists()


def _read_only(*_: object) -> None:
    raise OSError(30, os.strerror(30))


# Files that another user may have put into a shared cache


@pytest.mark.parametrize("suffix", [".part", ".lock", ".version"])
@pytest.mark.parametrize("kind", ["link", "dangling link", "hard link", "pipe", "folder"])
def test_a_download_follows_no_link(publisher: Publisher, tmp_path: Path, suffix, kind) -> None:
    cache, precious = tmp_path / "cache", tmp_path / "precious"
    cache.mkdir()
    planted = cache / f"{NAME}{suffix}"
    precious.write_text("precious")
    match kind:
        case "link":
            planted.symlink_to(precious)
        case "dangling link":
            planted.symlink_to(tmp_path / "nothing")
        case "hard link":
            planted.hardlink_to(precious)
        case "pipe":
            os.mkfifo(planted)
        case "folder":
            planted.mkdir()
    with pytest.raises(WeightsError) as refused:
        download(publisher.file(), cache)
    assert f"Weights cannot be saved in {cache}" in str(refused.value)
    assert precious.read_text() == "precious"
    assert not (tmp_path / "nothing").exists()
    assert not (cache / NAME).exists()


@pytest.mark.parametrize("suffix", [".part", ".lock", ".version"])
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_another_users_file_is_not_written_to(publisher: Publisher, tmp_path: Path, suffix) -> None:
    planted = tmp_path / f"{NAME}{suffix}"
    planted.write_text("theirs")
    os.chown(planted, 12345, 12345)
    with pytest.raises(WeightsError, match=r"belongs to another user \(uid 12345\): remove it"):
        download(publisher.file(), tmp_path)
    assert planted.read_text() == "theirs"


def test_leftovers_of_an_earlier_download_are_overwritten(publisher: Publisher, tmp_path) -> None:
    for suffix in (".part", ".lock", ".version"):
        (tmp_path / f"{NAME}{suffix}").write_bytes(b"old and longer than what comes")
    assert download(publisher.file(sha256=SHA256), tmp_path).read_bytes() == CONTENT


def test_weights_behind_a_users_own_link_are_read(
    load: Load, publisher: Publisher, files, tmp_path: Path
) -> None:
    """The cache may be a folder of links to a shared disk."""
    (tmp_path / "disk").write_bytes(files[0])
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / NAME).symlink_to(tmp_path / "disk")
    assert load() == sha256(files[0])
    assert publisher.ranges == []
