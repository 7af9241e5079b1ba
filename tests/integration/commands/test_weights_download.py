"""Weights downloads from a real HTTP server that disconnects, lies, refuses or hangs."""

from __future__ import annotations

import hashlib
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch

from resnext import classifier
from resnext.errors import DamagedWeights, UnreachableWeights, WeightsError
from resnext.network import build_network
from resnext.spec import catalogue
from resnext.spec.model import PublishedWeights
from resnext.weights import download
from resnext.weights.download import download as fetch_weights
from resnext.weights.random import draw_weights
from tests.integration.dispatching import until
from tests.servers.publisher import CONTENT, SHA256, Publisher, publishing


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with publishing() as published:
        yield published


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def only_files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"weights.pth.lock"}


def test_weights_are_downloaded_once_with_progress(publisher, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    file = publisher.file(sha256=SHA256, size_bytes=len(CONTENT))

    path = fetch_weights(file, tmp_path / "new" / "cache", lambda *so_far: seen.append(so_far))

    assert path.read_bytes() == CONTENT
    assert only_files(path.parent) == {"weights.pth"}
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)
    assert fetch_weights(file, path.parent) == path
    assert publisher.ranges == [None]


def test_a_download_without_a_length_works(publisher, tmp_path: Path) -> None:
    publisher.says_length = False
    assert fetch_weights(publisher.file(), tmp_path).read_bytes() == CONTENT


def test_an_interrupted_download_continues_where_it_stopped(publisher, tmp_path: Path) -> None:
    publisher.cut_after = [download.BLOCK_BYTES + 5, download.BLOCK_BYTES]
    path = fetch_weights(publisher.file(sha256=SHA256), tmp_path)
    assert path.read_bytes() == CONTENT
    assert publisher.ranges[0] is None
    assert len(publisher.ranges) == 3
    assert all(str(asked).startswith("bytes=") for asked in publisher.ranges[1:])


def test_the_next_start_continues_a_failed_download(publisher, tmp_path: Path) -> None:
    publisher.cut_after = [2 * download.BLOCK_BYTES, 0, 0]
    with pytest.raises(UnreachableWeights, match="was interrupted at 2,097,152 bytes"):
        fetch_weights(publisher.file(), tmp_path)
    assert "weights.pth" not in only_files(tmp_path)

    seen: list[int] = []
    path = fetch_weights(publisher.file(), tmp_path, lambda done, _: seen.append(done))

    assert path.read_bytes() == CONTENT
    assert seen[0] == 2 * download.BLOCK_BYTES
    assert only_files(tmp_path) == {"weights.pth"}


@pytest.mark.parametrize("change", ["etag", "ranges", "no-etag"])
def test_a_part_of_another_version_is_not_continued(publisher, change, tmp_path: Path) -> None:
    if change == "no-etag":
        publisher.etag = ""
    publisher.cut_after = [download.BLOCK_BYTES]
    publisher.cut_after += [0] * download.IDLE_RUNS
    with pytest.raises(UnreachableWeights):
        fetch_weights(publisher.file(), tmp_path)
    publisher.content = bytes(reversed(CONTENT))
    publisher.cut_after = []
    if change == "etag":
        publisher.etag = '"version-2"'
    publisher.knows_ranges = change != "ranges"

    assert fetch_weights(publisher.file(), tmp_path).read_bytes() == publisher.content


def test_a_part_longer_than_the_file_is_discarded(publisher, tmp_path: Path) -> None:
    (tmp_path / "weights.pth.part").write_bytes(CONTENT + b"more")
    (tmp_path / "weights.pth.version").write_text(publisher.etag)
    assert fetch_weights(publisher.file(), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "known", [{"sha256": "00" * 32}, {"size_bytes": 77}, {"sha256": "0123abcd"}]
)
def test_a_file_that_is_not_the_published_one_is_refused_and_deleted(
    publisher, known, tmp_path: Path
) -> None:
    with pytest.raises(DamagedWeights, match="is not the published file"):
        fetch_weights(publisher.file(**known), tmp_path)
    assert not {"weights.pth", "weights.pth.part"} & only_files(tmp_path)


@pytest.mark.parametrize("status", [403, 404, 503])
def test_the_error_for_a_refusal_has_its_status_and_alternatives(
    publisher, status, tmp_path: Path
) -> None:
    publisher.status = status
    with pytest.raises(UnreachableWeights) as error:
        fetch_weights(publisher.file(), tmp_path)
    for words in (publisher.address, f"status {status}", "WEIGHTS=PATH", "WEIGHTS=random"):
        assert words in str(error.value)


@contextmanager
def downloading(address: str, folder: Path, processes: int) -> Iterator[list[subprocess.Popen]]:
    """Start processes that are about to call `download`."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from resnext.weights.download import download\n"
        "from resnext.spec.model import PublishedWeights\n"
        "file = PublishedWeights(address=sys.argv[1], licence='none')\n"
        "print('ready', flush=True)\n"
        "download(file, Path(sys.argv[2]))\n"
    )
    command = [sys.executable, "-c", code, address, str(folder)]
    with ExitStack() as stack:
        workers = [
            stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            for _ in range(processes)
        ]
        for worker in workers:
            stack.callback(worker.kill)
            assert worker.stdout.readline() == "ready\n"
        yield workers


def test_processes_that_start_at_once_download_once(publisher, tmp_path: Path) -> None:
    publisher.answer.clear()
    with downloading(publisher.file().address, tmp_path, 3) as workers:
        assert publisher.asked.wait(60)
        publisher.answer.set()
        assert [worker.wait(60) for worker in workers] == [0, 0, 0]

    assert publisher.ranges == [None]
    assert (tmp_path / "weights.pth").read_bytes() == CONTENT


def test_the_next_process_continues_a_killed_download(publisher, tmp_path: Path) -> None:
    publisher.cut_after = [2 * download.BLOCK_BYTES + 1]
    publisher.goes_on.clear()
    part = tmp_path / "weights.pth.part"
    with downloading(publisher.file().address, tmp_path, 1) as [worker]:
        until(lambda: part.exists() and part.stat().st_size >= download.BLOCK_BYTES)
        worker.kill()
        worker.wait()
    begin = part.stat().st_size
    publisher.goes_on.set()
    assert fetch_weights(publisher.file(), tmp_path).read_bytes() == CONTENT
    assert publisher.ranges == [None, f"bytes={begin}-"]


def within_5_s(address: str, folder: Path) -> str:
    began = time.monotonic()
    with pytest.raises(UnreachableWeights) as error:
        fetch_weights(PublishedWeights(address=address, licence="none"), folder)
    assert time.monotonic() - began < 5, "an offline machine must get its error within 5 s"
    assert address in str(error.value)
    assert "RESNEXT_WEIGHTS=random" in str(error.value)
    return str(error.value)


def test_the_error_names_a_missing_server(tmp_path: Path) -> None:
    assert "refused" in within_5_s("http://127.0.0.1:9/w.pth", tmp_path)


def test_the_error_names_a_host_without_an_address(tmp_path: Path) -> None:
    assert "cannot be reached" in within_5_s("https://nothing.invalid/w.pth", tmp_path)


def test_a_lookup_that_hangs_times_out(tmp_path: Path, monkeypatch) -> None:
    release = threading.Event()
    look_up = socket.getaddrinfo

    def hang(*arguments, **options):
        release.wait()
        return look_up(*arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    message = within_5_s("http://127.0.0.1:9/w.pth", tmp_path)
    release.set()
    assert "does not answer within 3 s" in message


def test_the_error_names_an_unreachable_proxy(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("http_proxy", "http://user:hunter2@127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    message = within_5_s("http://weights.invalid/w.pth", tmp_path)
    assert "127.0.0.1:9 cannot be reached" in message
    assert "hunter2" not in message


@pytest.mark.parametrize("sign", ["/", "?", "#"])
@pytest.mark.parametrize("begin", ["hunter", "1"])
def test_the_error_shows_no_part_of_a_proxys_password(
    tmp_path: Path, monkeypatch, begin: str, sign: str
) -> None:
    monkeypatch.setenv("http_proxy", f"http://someone:{begin}{sign}twelve@127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    message = within_5_s("http://weights.invalid/w.pth", tmp_path)
    assert "%40" in message
    for part in ("someone", "hunter", "twelve"):
        assert part not in message


def test_the_error_names_a_cache_folder_that_cannot_be_written(publisher, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WeightsError, match="cannot be saved in"):
        fetch_weights(publisher.file(), tmp_path / "file" / "cache")


def test_weights_by_name_classify_from_the_cache(publisher, tmp_path: Path, monkeypatch) -> None:
    known = catalogue.find_spec("resnext50_32x4d")
    network = build_network(known)
    draw_weights(network, known)
    torch.save({"state_dict": network.state_dict()}, tmp_path / "published.pth")
    publisher.content = (tmp_path / "published.pth").read_bytes()
    digest = hashlib.sha256(publisher.content).hexdigest()
    monkeypatch.setitem(known.weights, "torchvision", publisher.file(sha256=digest[:8]))

    def load() -> classifier.Classifier:
        return classifier.load_classifier(
            known.name, "torchvision", device="cpu", cache=tmp_path, batch_images=1
        )

    loaded = load()
    assert loaded.weights == "torchvision"
    assert loaded.weights_sha256 == digest

    cached = tmp_path / "weights" / "weights.pth"
    shutil.copy(__file__, cached)
    with pytest.raises(DamagedWeights, match="Delete it to download it again"):
        load()
    cached.unlink()
    assert load().weights_sha256 == digest
