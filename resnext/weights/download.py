"""Downloads a weights file to the cache folder, once for all processes, and resumes it.

`load_classifier` calls `download` for weights by name. If several processes start at once, they
wait for the first one. The next call continues an interrupted download. A file gets its final name
when it is complete.

It does not use pooch: that does not resume, so 180 MB over a bad connection would start again each
time. It has no lock between processes, and accepts no hash of which only the first digits are
published.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import requests

from resnext.errors import DamagedWeights, UnreachableWeights, WeightsError
from resnext.spec.catalogue import BUNDLED
from resnext.spec.model import RANDOM, PublishedWeights
from resnext.weights.own_file import open_own, read_text
from resnext.weights.pin import pin_file, read_pin

Progress = Callable[[int, int | None], None]
"""Called with the bytes so far, and the total if it is known."""

# A machine without a network must report it within 5 s, whatever hangs.
CONNECT_TIMEOUT_S: Final = 3.0
READ_TIMEOUT_S: Final = 30.0
BLOCK_BYTES: Final = 2**20
# This many requests in a row may bring no byte. A request that brings a byte resets the count.
IDLE_RUNS: Final = 2
_DEFAULT_PORT: Final = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}


def download(file: PublishedWeights, folder: Path, progress: Progress | None = None) -> Path:
    """Returns the path of the file in `folder`. Downloads it if it does not exist.

    Raises:
        UnreachableWeights: the server does not answer, refuses, or interrupts again and again.
        DamagedWeights: the file is not the published one, or not the one that was first used here.
        WeightsError: the folder cannot be written.
    """
    target = folder / file.file_name
    if target.exists():
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_name(target.name + ".lock")):
            if not target.exists():  # another process may have downloaded it
                _Download(file, target, progress or _no_progress).run()
    except OSError as error:
        raise WeightsError(f"Weights cannot be saved in {folder}: {error}.") from error
    return target


def check_available(file: PublishedWeights, folder: Path) -> None:
    """Returns if the file is in `folder`, or if its server offers it now. Downloads nothing.

    Raises:
        UnreachableWeights: the server does not answer, or refuses.
    """
    if (folder / file.file_name).exists():
        return
    _check_reachable(file.address)
    try:
        with requests.get(file.address, stream=True, timeout=CONNECT_TIMEOUT_S) as response:
            if not response.ok:
                raise _unreachable(file.address, f"status {response.status_code}")
    except requests.RequestException as error:
        raise _unreachable(file.address, _reason(error)) from error


def _no_progress(_done: int, _total: int | None) -> None:
    pass


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock between processes. The kernel frees it if the process dies."""
    with open_own(path) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class _BrokenOffError(Exception):
    """The body ended early. The received bytes are kept."""


@dataclass(frozen=True)
class _Download:
    """The download of one file. Owns its `.part` file and the version beside it."""

    file: PublishedWeights
    target: Path
    progress: Progress

    @property
    def part(self) -> Path:
        return self.target.with_name(self.target.name + ".part")

    @property
    def version(self) -> Path:
        """The file with the server's ETag or date. A part is only continued with the same one."""
        return self.target.with_name(self.target.name + ".version")

    def run(self) -> None:
        _check_reachable(self.file.address)
        idle_runs = 0
        while True:
            before = self._part_bytes()
            try:
                self._continue()
                break
            except _BrokenOffError as error:
                idle_runs = 0 if self._part_bytes() > before else idle_runs + 1
                if idle_runs == IDLE_RUNS:
                    raise self._broken_off(error) from error
        self._check()
        self.part.replace(self.target)
        self.version.unlink(missing_ok=True)

    def _part_bytes(self) -> int:
        try:
            return self.part.lstat().st_size
        except FileNotFoundError:
            return 0

    def _continue(self) -> None:
        """Fetches the missing bytes, or all of them if the server cannot resume.

        Raises:
            _BrokenOffError: the body ended early.
            UnreachableWeights: the server does not answer, or answers with an error.
        """
        with self._request() as response:
            begin = self._begin(response)
            total = _total_bytes(response, begin)
            with open_own(self.part) as part:
                if begin == 0:
                    part.truncate()
                    # Only after the part is emptied, so that it never has another file's version.
                    self._note_version(_version(response))
                done = part.seek(begin)
                self.progress(done, total)
                for block in self._blocks(response):
                    part.write(block)
                    done += len(block)
                    self.progress(done, total)
                os.fsync(part.fileno())
        if total is not None and done != total:
            raise _BrokenOffError(f"received only {done:,} of {total:,} bytes")

    def _note_version(self, version: str) -> None:
        with open_own(self.version) as file:
            file.truncate()
            file.write(version.encode())

    def _request(self) -> requests.Response:
        headers = {"Accept-Encoding": "identity"}
        done = self._part_bytes()
        version = read_text(self.version)
        if done and version:
            headers |= {"Range": f"bytes={done}-", "If-Range": version}
        try:
            response = requests.get(
                self.file.address,
                headers=headers,
                stream=True,
                timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
            )
        except requests.RequestException as error:
            raise _unreachable(self.file.address, _reason(error)) from error
        if done and response.status_code == requests.codes.requested_range_not_satisfiable:
            # The part is longer than the file, so it belongs to another one.
            response.close()
            self.part.unlink()
            return self._request()
        if not response.ok:
            response.close()
            raise _unreachable(self.file.address, f"status {response.status_code}")
        return response

    def _begin(self, response: requests.Response) -> int:
        """Where the body starts: after the existing part, or at 0 for a new download."""
        if response.status_code != requests.codes.partial_content:
            return 0
        begin = _content_range(response)[0]
        if begin != self._part_bytes():
            raise _unreachable(self.file.address, f"it sent bytes from {begin:,}, not as requested")
        return begin

    def _blocks(self, response: requests.Response) -> Iterator[bytes]:
        try:
            yield from response.iter_content(BLOCK_BYTES)
        except requests.RequestException as error:
            raise _BrokenOffError(_reason(error)) from error

    def _check(self) -> None:
        """Checks the size and the hash. Deletes a wrong file.

        Raises:
            DamagedWeights: the size or the hash is not the published or pinned one.
            WeightsError: the pin is damaged.
        """
        size, expected = self._part_bytes(), self.file.size_bytes
        fault = f"{size:,} bytes, not {expected:,}" if expected not in (None, size) else None
        pinned = read_pin(self.target)
        if fault is None and (self.file.sha256 or pinned):
            with open_own(self.part) as part:
                digest = hashlib.file_digest(part, "sha256").hexdigest()
            if not digest.startswith(self.file.sha256 or ""):
                fault = f"SHA-256 {digest}, not {self.file.sha256}"
            elif pinned not in {None, digest}:
                fault = (
                    f"its SHA-256 is {digest}, but was {pinned} at the first use; if you trust the "
                    f"new file, delete {pin_file(self.target)}"
                )
        if fault is not None:
            self.part.unlink()
            raise DamagedWeights(
                f"The download from {self.file.address} is not the published file: {fault}. "
                f"Try again, or {_ALTERNATIVES}."
            )

    def _broken_off(self, error: Exception) -> UnreachableWeights:
        return UnreachableWeights(
            f"The download of {self.file.address} was interrupted at {self._part_bytes():,} bytes: "
            f"{error}. Try again to continue it, or {_ALTERNATIVES}.",
            reason=str(error),
        )


_ALTERNATIVES: Final = (
    f"set RESNEXT_MODEL={BUNDLED} and RESNEXT_WEIGHTS=bundled for the small "
    "model that comes with this program, RESNEXT_WEIGHTS=PATH for a file that you have, or "
    f"RESNEXT_WEIGHTS={RANDOM} for untrained weights, to try everything else"
)


def _unreachable(address: str, reason: str) -> UnreachableWeights:
    return UnreachableWeights(
        f"Weights cannot be downloaded from {address}: {reason}. "
        f"Check the network, or {_ALTERNATIVES}.",
        reason=reason,
    )


def _reason(error: BaseException) -> str:
    """The innermost cause, which requests and urllib3 wrap three times."""
    cause: BaseException = error
    while (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
    return str(cause) or type(cause).__name__


def _words(error: OSError) -> str:
    return error.strerror or str(error)


def _check_reachable(address: str) -> None:
    """Opens a connection to the server or its proxy, and gives up after `CONNECT_TIMEOUT_S`.

    The timeout in requests is only for a connection to one address. A hanging look-up, or a host
    with eight dead addresses, would take much longer.

    Raises:
        UnreachableWeights: there is no connection.
    """
    proxies = requests.utils.get_environ_proxies(address)
    proxy = requests.utils.select_proxy(address, proxies)
    host, port = _server_of(proxy or address, weights=address)
    through = f"{host}:{port}" if proxy else "it"
    failures: list[OSError] = []
    attempt = threading.Thread(target=_connect, args=(host, port, failures), daemon=True)
    attempt.start()
    attempt.join(CONNECT_TIMEOUT_S)
    if attempt.is_alive():
        raise _unreachable(address, f"{through} does not answer within {CONNECT_TIMEOUT_S:.0f} s")
    if failures:
        raise _unreachable(address, f"{through} cannot be reached: {_words(failures[0])}")


def _server_of(url: str, *, weights: str) -> tuple[str, int]:
    """Returns the host and port in the URL of the server or the proxy.

    Raises:
        UnreachableWeights: the proxy's URL is invalid. The message shows none of it, because a
            misread part may belong to its password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORT.get(parts.scheme, 80)
    except ValueError:
        port = 0
    if port == 0 or (parts.netloc and "@" in url.partition(parts.netloc)[2]):
        reason = (
            "the proxy in the environment is not a URL like http://user:password@host:port; "
            "in a password, write @ : / ? # as %40 %3A %2F %3F %23"
        )
        raise _unreachable(weights, reason)
    return parts.hostname or "", port


def _connect(host: str, port: int, failures: list[OSError]) -> None:
    try:
        socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S).close()
    except (OSError, UnicodeError) as error:  # UnicodeError: an invalid name
        failures.append(error if isinstance(error, OSError) else OSError(str(error)))


def _version(response: requests.Response) -> str:
    """The value for If-Range, which permits no weak tags (RFC 9110, 13.1.5)."""
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")


def _total_bytes(response: requests.Response, begin: int) -> int | None:
    if begin:
        return _content_range(response)[1]
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def _content_range(response: requests.Response) -> tuple[int, int | None]:
    """The first byte and the total length in a value such as `bytes 100-199/200`."""
    unit, _, rest = response.headers.get("Content-Range", "").partition(" ")
    span, _, total = rest.partition("/")
    first = span.partition("-")[0]
    if unit != "bytes" or not first.isdigit():
        return -1, None
    return int(first), int(total) if total.isdigit() else None
