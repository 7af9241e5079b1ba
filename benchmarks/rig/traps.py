"""One process that plays hostile servers. What a URI does depends only on its path.

    python -m benchmarks.rig.traps [--hosts 64]

It uses the same addresses as benchmarks/rig/web.py, on another port, which it prints. `/KIND/n.jpg`
is a trap of that kind. A worker gives up `QUICK` ones at once; `SLOW` ones keep it waiting or busy.
It ends when its standard input ends. Benchmarks start it with `setting_traps`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import gzip
import itertools
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from benchmarks.rig.child import Child, say
from benchmarks.rig.web import BACKLOG, listen

OK = b"HTTP/1.1 200 OK\r\n"
TO = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: "
LENGTH = b"Content-Length: %d\r\n\r\n"
PAGE = b"<html>not a picture</html>"
BOMB_BYTES = 64 * 2**20
DRIP_S = 1.0

ANSWERS = {
    "inside": TO + b"http://169.254.169.254/latest/meta-data/\r\n\r\n",
    "disguised": TO + b"http://[::ffff:127.0.0.1]/\r\n\r\n",
    "scheme": TO + b"gopher://127.0.0.1:6379/_FLUSHALL\r\n\r\n",
    "file": TO + b"file:///etc/passwd\r\n\r\n",
    "loop": TO + b"/loop/again.jpg\r\n\r\n",
    "large": OK + LENGTH % 10**12,
    "packed": OK + b"Content-Encoding: br\r\n" + LENGTH % len(PAGE) + PAGE,
    "no-http": b"220 mail.example ESMTP\r\n\r\n",
    "headers": OK + b"Some: words\r\n" * 10_000,
    "page": OK + b"Content-Type: image/jpeg\r\n" + LENGTH % len(PAGE) + PAGE,
}
# A client that checks where they lead never requests them.
ADDRESSES = ("http://10.0.0.1/{}.jpg", "http://0xa9fea9fe/{}.jpg", "http://[fd00::1]/{}.jpg")
QUICK = (*ADDRESSES, *ANSWERS)
SLOW = ("hang", "drip", "bomb")


class _Trap(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._request = b""

    def data_received(self, data: bytes) -> None:
        self._request += data
        if not self._request.endswith(b"\r\n\r\n"):
            return
        kind = self._request.split(b"/", 2)[1].decode()
        self._request = b""
        if kind in ANSWERS:
            self._transport.write(ANSWERS[kind])
        elif kind == "bomb":
            self._transport.write(_bomb())
        elif kind == "drip":
            self._transport.write(OK + b"\r\n")
            self._drip()

    def _drip(self) -> None:
        """Sends one byte per second."""
        if not self._transport.is_closing():
            self._transport.write(b"\xff")
            asyncio.get_running_loop().call_later(DRIP_S, self._drip)


@functools.cache
def _bomb() -> bytes:
    """A compressed body that unpacks to more than the largest allowed image."""
    body = gzip.compress(bytes(BOMB_BYTES))
    return OK + b"Content-Encoding: gzip\r\n" + LENGTH % len(body) + body


async def serve(hosts: int) -> None:
    """Serves until standard input ends."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    sockets = listen(hosts, 0)
    for opened in sockets:
        await loop.create_server(_Trap, sock=opened, backlog=BACKLOG)
    say({"port": sockets[0].getsockname()[1]})

    def listen_to_parent() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=listen_to_parent, daemon=True).start()
    await ended.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, default=64, help="127.0.0.1 to 127.0.0.HOSTS")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(parser.parse_args().hosts))
    os._exit(0)


# What benchmarks use


class Traps:
    def __init__(self, child: Child, hosts: int) -> None:
        self._port: int = child.read()["port"]
        self._hosts = hosts
        self._numbers = itertools.count()

    def uris(self, number: int, kinds: tuple[str, ...]) -> list[str]:
        """New URIs, of these kinds in turn."""
        found = itertools.cycle(kinds)
        return [self._uri(next(found), next(self._numbers)) for _ in range(number)]

    def _uri(self, kind: str, n: int) -> str:
        if "://" in kind:
            return kind.format(n)
        return f"http://127.0.0.{1 + n % self._hosts}:{self._port}/{kind}/{n}.jpg"


@contextlib.contextmanager
def setting_traps(*, hosts: int = 64) -> Iterator[Traps]:
    with (
        tempfile.TemporaryDirectory() as scratch,
        Child("benchmarks.rig.traps", "--hosts", str(hosts), log=Path(scratch, "log")) as child,
    ):
        yield Traps(child, hosts)


if __name__ == "__main__":
    main()
