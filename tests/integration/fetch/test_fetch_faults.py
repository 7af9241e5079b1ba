"""A fetch that hangs beyond interruption, or is deceived, affects no other fetch."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from contract.addresses import FetchAllow
from contract.failure import Failure
from tests.fetching import Fetching
from worker.loader.fetch.fetcher import Fetched

FOR_EVER_S = 3600.0
SOON_S = 0.3


class Server(BaseHTTPRequestHandler):
    """`/ok` is an image. `/STATUS/VALUE` answers with STATUS and `Retry-After: VALUE`."""

    def do_GET(self) -> None:
        _, status, *value = self.path.split("/", 2)
        self.send_response(200 if status == "ok" else int(status))
        if value:
            self.send_header("Retry-After", value[0].replace("_", " "))
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://localhost:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def over() -> Iterator[threading.Event]:
    """Set when the test ends, so that everything that hangs continues."""
    event = threading.Event()
    yield event
    event.set()


def make_fetcher(*roots: Path, slots: int = 1, deadline_s: float = FOR_EVER_S) -> Fetching:
    allow = ("localhost",)
    return Fetching(slots=slots, fetch_allow=allow, file_roots=roots, fetch_deadline_s=deadline_s)


def test_hanging_dns_lookups_delay_no_other_host(
    address: str, over: threading.Event, monkeypatch
) -> None:
    """In the second round all slots but one wait, and the first round's lookups still hang."""
    look_up, hanging = socket.getaddrinfo, threading.Semaphore(0)

    def hang(host: str, *arguments: Any, **options: Any) -> Any:
        if host.endswith(".hangs"):
            hanging.release()
            over.wait()
            raise socket.gaierror("given up")
        return look_up(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    fetcher = make_fetcher(slots=16, deadline_s=2.0)
    uris = [f"http://name-{n}.hangs/a.jpg" for n in range(30)]
    late = Failure("timeout", "while looking up the host's name")
    for part in (uris[:15], uris[15:]):
        outcomes = [fetcher.begin(uri) for uri in part]
        assert all(hanging.acquire(timeout=10) for _ in range(15))
        assert fetcher.fetch(f"{address}/ok") == Fetched(b"ok")
        assert not any(outcomes)
        assert fetcher.wait(*outcomes) == [late] * 15


def test_a_name_is_looked_up_once_but_its_address_checked_each_time(
    address: str, monkeypatch
) -> None:
    look_up, asked = socket.getaddrinfo, list[str]()

    def note(host: str, *arguments: Any, **options: Any) -> Any:
        asked.append(host)
        return look_up(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", note)
    fetcher = make_fetcher()
    for _ in range(2):
        assert fetcher.fetch(f"{address}/ok") == Fetched(b"ok")
    fetcher.fetcher._allow = FetchAllow()
    failure = fetcher.failure(f"{address}/ok")
    assert failure.code == "blocked_address"
    assert asked == ["localhost"]


def test_only_the_file_on_an_unreachable_server_times_out(
    tmp_path: Path, over: threading.Event, monkeypatch
) -> None:
    open_file = os.open

    def hang(path: Any, *arguments: Any, **options: Any) -> int:
        if Path(os.fsdecode(path)).name == "hangs.jpg":
            over.wait()
        return open_file(path, *arguments, **options)

    monkeypatch.setattr(os, "open", hang)
    for name in ("hangs.jpg", "a.jpg"):
        (tmp_path / name).write_bytes(b"ok")
    fetcher = make_fetcher(tmp_path, deadline_s=SOON_S)
    failure = fetcher.failure((tmp_path / "hangs.jpg").as_uri())
    assert failure == Failure("timeout", "while reading the file")
    assert make_fetcher(tmp_path).fetch((tmp_path / "a.jpg").as_uri()) == Fetched(b"ok")


def test_a_folder_replaced_by_a_link_during_the_open_is_blocked(
    tmp_path: Path, monkeypatch
) -> None:
    album, outside = tmp_path / "root" / "album", tmp_path / "outside"
    for folder in (album, outside):
        folder.mkdir(parents=True)
        (folder / "a.jpg").write_bytes(b"secret" if folder is outside else b"ok")
    open_file = os.open

    def swap_and_open(path: Any, *arguments: Any, **options: Any) -> int:
        if not album.is_symlink() and Path(os.fsdecode(path)).name == "a.jpg":
            album.rename(tmp_path / "before")
            album.symlink_to(outside)
        return open_file(path, *arguments, **options)

    fetcher = make_fetcher(tmp_path / "root")
    assert fetcher.fetch((album / "a.jpg").as_uri()) == Fetched(b"ok")
    monkeypatch.setattr(os, "open", swap_and_open)
    failure = fetcher.failure((album / "a.jpg").as_uri())
    assert failure.code == "blocked_path"


def test_a_link_that_changes_after_the_check_is_not_followed_again(
    tmp_path: Path, monkeypatch
) -> None:
    """The file that was checked is the file that is read."""
    root, link = tmp_path / "root", tmp_path / "root" / "link.jpg"
    root.mkdir()
    for path in (root / "a.jpg", tmp_path / "secret"):
        path.write_bytes(path.name.encode())
    link.symlink_to(root / "a.jpg")
    resolve = Path.resolve

    def resolve_and_swap(path: Path, *arguments: Any, **options: Any) -> Path:
        resolved = resolve(path, *arguments, **options)
        if path == link:
            link.unlink()
            link.symlink_to(tmp_path / "secret")
        return resolved

    monkeypatch.setattr(Path, "resolve", resolve_and_swap)
    assert make_fetcher(root).fetch(link.as_uri()) == Fetched(b"a.jpg")


def test_a_link_replaced_by_a_file_while_it_is_followed_is_read(
    tmp_path: Path, monkeypatch
) -> None:
    path, follow = tmp_path / "a.jpg", os.readlink
    path.symlink_to(tmp_path / "other.jpg")

    def replace_and_follow(link: Any, *arguments: Any, **options: Any) -> Any:
        if path.is_symlink():
            path.unlink()
            path.write_bytes(b"ok")
        return follow(link, *arguments, **options)

    monkeypatch.setattr(os, "readlink", replace_and_follow)
    assert make_fetcher(tmp_path).fetch(path.as_uri()) == Fetched(b"ok")


def test_a_link_that_is_replaced_each_time_is_retried_later(tmp_path: Path, monkeypatch) -> None:
    def follow(link: Any, **_: Any) -> str:
        raise OSError(errno.EINVAL, "Invalid argument", link)

    (tmp_path / "a.jpg").symlink_to(tmp_path / "other.jpg")
    monkeypatch.setattr(os, "readlink", follow)
    failure = make_fetcher(tmp_path).failure((tmp_path / "a.jpg").as_uri())
    assert failure.retried


@pytest.mark.parametrize("before", ["a file", "a link to a removed file"])
def test_a_file_replaced_by_a_link_before_the_open_is_read(
    tmp_path: Path, monkeypatch, before: str
) -> None:
    path, target, open_file = tmp_path / "a.jpg", tmp_path / "b.jpg", os.open
    target.write_bytes(b"ok")
    old = path if before == "a file" else tmp_path / "old.jpg"
    old.write_bytes(b"old")
    if old != path:
        path.symlink_to(old)

    def replace_and_open(opened: Any, *arguments: Any, **options: Any) -> int:
        if old.exists() and os.fsdecode(opened) == str(old) and not old.is_symlink():
            old.unlink()
            path.unlink(missing_ok=True)
            path.symlink_to(target)
        return open_file(opened, *arguments, **options)

    monkeypatch.setattr(os, "open", replace_and_open)
    assert make_fetcher(tmp_path).fetch(path.as_uri()) == Fetched(b"ok")


IN_OPEN, IN_NONBLOCK = 0x20, 0o4000  # inotify(7)


def test_a_pipe_or_device_is_refused_without_being_opened(tmp_path: Path) -> None:
    """Opening a device can have effects: it may rewind a tape or arm a watchdog."""
    pipe = tmp_path / "a.jpg"
    os.mkfifo(pipe)
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(IN_NONBLOCK)
    assert libc.inotify_add_watch(watch, os.fsencode(pipe), IN_OPEN) > 0
    failure = make_fetcher(tmp_path).failure(pipe.as_uri())
    assert failure == Failure("unreadable", "not a regular file")
    with pytest.raises(BlockingIOError):
        os.read(watch, 4096)
    os.close(watch)
    failure = make_fetcher(Path("/dev")).failure("file:///dev/zero")
    assert failure == Failure("unreadable", "not a regular file")


@pytest.mark.parametrize(
    ("value", "expected_s"),
    [
        ("7", 7.0),
        ("Mon,_01_Jan_2024_00:00:00_GMT", 0.0),
        ("soon", None),
        ("Mon,_01_Jan_99999999999999999999_00:00:00_GMT", None),
        ("Mon,_01_Jan_2024_00:00:00_+99999999999999", None),
    ],
)
def test_an_overloaded_server_is_retried_whatever_its_retry_after(
    address: str, value: str, expected_s: float | None
) -> None:
    failure = make_fetcher().failure(f"{address}/503/{value}")
    assert failure == Failure("http_503", "Service Unavailable", expected_s)
