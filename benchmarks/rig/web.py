"""One process that plays the web. What a URI does depends only on a seed and its path.

    python -m benchmarks.rig.web [--photographs photos.tar] [--seed 1] [--hosts 64] ...

Serves the photographs of a tar file, or small pictures that it makes, from memory. Like a crawl it
has many hosts: 127.0.0.1, 127.0.0.2 and so on, all on one port, which it prints. Some URIs hang,
are missing, reset the connection, are too busy or send damaged pictures; `Script` says how many,
and how long the others take. It answers each line `{}` of its standard input with the numbers of
its answers and the CPU time they took, and ends when its standard input ends. Benchmarks start it
with `playing`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import io
import math
import os
import resource
import socket
import statistics
import struct
import sys
import tarfile
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.rig.child import Child, answer_questions, say

# The pictures that it makes if there are no photographs.
PICTURES = 64
PICTURE_SIDE = 64
RETRY_AFTER_S = 1
# The kernel doubles this, so a photograph goes out in one call.
SEND_BUFFER_BYTES = 200 * 1024
KINDS = ("picture", "hang", "not_found", "reset", "busy", "broken")
PORT_TRIES = 100
BACKLOG = 1024
_DRAWS = struct.Struct("<QQQ")


@dataclass(frozen=True)
class Behaviour:
    kind: str
    latency_s: float
    picture: int
    """Chooses the picture, modulo the number of pictures."""


@dataclass(frozen=True, kw_only=True)
class Script:
    """Which share of the URIs does what, and how long an answer takes (log-normal)."""

    seed: int = 1
    latency_ms: float = 100.0
    """Median latency; 0: answers at once."""
    sigma: float = 0.8
    """Sigma of the latency's logarithm. With 0.8, 1% of the answers take over 6.4 medians."""
    hang: float = 0.03
    """Accepts the connection and never answers."""
    not_found: float = 0.03
    """Answers 404."""
    reset: float = 0.02
    """Resets the connection instead of answering."""
    busy: float = 0.01
    """Answers 503 with Retry-After."""
    broken: float = 0.02
    """Sends the first half of a picture."""

    def of(self, path: str) -> Behaviour:
        digest = hashlib.blake2b(f"{self.seed} {path}".encode(), digest_size=_DRAWS.size).digest()
        kind, latency, picture = _DRAWS.unpack(digest)
        return Behaviour(self._kind(kind / 2**64), self._latency_s(latency), picture)

    def _kind(self, draw: float) -> str:
        for kind in KINDS[1:]:
            draw -= getattr(self, kind)
            if draw < 0:
                return kind
        return KINDS[0]

    def _latency_s(self, draw: int) -> float:
        normal = statistics.NormalDist().inv_cdf((draw + 1) / (2**64 + 2))
        return self.latency_ms / 1000 * math.exp(self.sigma * normal)

    def options(self) -> list[str]:
        """The options for the command line."""
        return [f"--{_option(one.name)}={getattr(self, one.name)}" for one in fields(self)]


NO_FAULTS = {"hang": 0.0, "not_found": 0.0, "reset": 0.0, "busy": 0.0, "broken": 0.0}


# The process


class Server:
    """Owns the pictures and the counts."""

    def __init__(self, script: Script, pictures: list[bytes]) -> None:
        self.script = script
        self.served: Counter[str] = Counter()
        self._began_at = time.monotonic()
        self._answers = {
            "picture": [_response("200 OK", picture) for picture in pictures],
            "broken": [_response("200 OK", picture[: len(picture) // 2]) for picture in pictures],
            "not_found": [_response("404 Not Found", b"")],
            "busy": [_response(f"503 Busy\r\nRetry-After: {RETRY_AFTER_S}", b"")],
        }

    def answer_to(self, behaviour: Behaviour) -> bytes:
        """The complete answer; empty if there is none."""
        self.served[behaviour.kind] += 1
        answers = self._answers.get(behaviour.kind, [b""])
        return answers[behaviour.picture % len(answers)]

    def counts(self) -> dict[str, Any]:
        return {
            "served": dict(self.served),
            "at": time.monotonic(),
            "cpu_s": time.process_time(),
            "seconds": time.monotonic() - self._began_at,
        }


class _Connection(asyncio.Protocol):
    """Answers one request after the other, as clients send them."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._request = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._request += data
        if not self._request.endswith(b"\r\n\r\n"):
            return
        path = self._request.split(b" ", 2)[1].decode()
        self._request = b""
        behaviour = self._server.script.of(path)
        if behaviour.latency_s:
            self._loop.call_later(behaviour.latency_s, self._answer, behaviour)
        else:
            self._answer(behaviour)

    def _answer(self, behaviour: Behaviour) -> None:
        answer = self._server.answer_to(behaviour)
        if behaviour.kind == "reset":
            self._reset()
        elif behaviour.kind != "hang":
            self._transport.write(answer)

    def _reset(self) -> None:
        """Closes without lingering, so that the other side gets RST instead of FIN."""
        connection = self._transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


def _response(status: str, body: bytes) -> bytes:
    kind = "image/jpeg" if body else "text/plain"
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def read_pictures(photographs: Path | None) -> list[bytes]:
    if photographs is None:
        return [_make_picture(n) for n in range(PICTURES)]
    with tarfile.open(photographs) as archive:
        files = [archive.extractfile(member) for member in archive if member.isfile()]
        return [file.read() for file in files if file is not None]


def _make_picture(n: int) -> bytes:
    """A JPEG of noise, a few kilobytes."""
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(n).integers(0, 256, (PICTURE_SIDE, PICTURE_SIDE, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def listen(hosts: int, port: int) -> list[socket.socket]:
    """Opens one socket per host, all on one port; 0: any port that is free on all hosts."""
    for _ in range(PORT_TRIES):
        with contextlib.ExitStack() as opened:
            sockets = [opened.enter_context(_socket("127.0.0.1", port))]
            found = sockets[0].getsockname()[1]
            try:
                more = [f"127.0.0.{n}" for n in range(2, hosts + 1)]
                sockets += [opened.enter_context(_socket(host, found)) for host in more]
            except OSError:
                continue
            opened.pop_all()
            return sockets
    raise OSError(f"no port is free on {hosts} addresses")


def _socket(host: str, port: int) -> socket.socket:
    opened = socket.socket()
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        opened.bind((host, port))
        opened.listen(BACKLOG)
    except OSError:
        opened.close()
        raise
    return opened


async def serve(server: Server, sockets: list[socket.socket]) -> None:
    """Serves until standard input ends."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def listen_to_parent() -> None:
        answer_questions(server.counts)
        loop.call_soon_threadsafe(ended.set)

    for opened in sockets:
        await loop.create_server(lambda: _Connection(server), sock=opened, backlog=BACKLOG)
    say({"port": sockets[0].getsockname()[1]})
    threading.Thread(target=listen_to_parent, daemon=True).start()
    await ended.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", type=Path, help="tar file; default: small made pictures")
    parser.add_argument("--hosts", type=int, default=64, help="127.0.0.1 to 127.0.0.HOSTS")
    parser.add_argument("--port", type=int, default=0, help="0: any")
    for one in fields(Script):
        parser.add_argument(f"--{_option(one.name)}", type=type(one.default), default=one.default)
    chosen = parser.parse_args()
    script = Script(**{one.name: getattr(chosen, one.name) for one in fields(Script)})
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    server = Server(script, read_pictures(chosen.photographs))
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(server, listen(chosen.hosts, chosen.port)))
    counts = server.counts()
    share = counts["cpu_s"] / counts["seconds"]
    print(f"{server.served.total()} requests, {share:.0%} of a core", file=sys.stderr)
    sys.stdout.flush()
    os._exit(0)  # the thread that reads standard input cannot be stopped


def _option(name: str) -> str:
    return name.replace("_", "-")


# What benchmarks use


class Web:
    def __init__(self, child: Child, hosts: int) -> None:
        self._child = child
        self._hosts = hosts
        self._port: int = child.read()["port"]

    @property
    def pid(self) -> int:
        return self._child.pid

    def uris(self, images: int, first: int = 0) -> list[str]:
        return [
            f"http://127.0.0.{1 + n % self._hosts}:{self._port}/{n}.jpg"
            for n in range(first, first + images)
        ]

    def counts(self) -> dict[str, Any]:
        """The server's counts: see `Server.counts`."""
        return self._child.ask()

    def burden(self) -> str:
        """The share of the machine that it has taken since its start."""
        counts = self.counts()
        cores = len(os.sched_getaffinity(0))
        share = counts["cpu_s"] / counts["seconds"] / cores
        return f"the web took {share:.1%} of the machine's {cores} cores"


@contextlib.contextmanager
def playing(script: Script, photographs: Path | None, *, hosts: int = 64) -> Iterator[Web]:
    options = ["--hosts", str(hosts), *script.options()]
    if photographs is not None:
        options += ["--photographs", str(photographs)]
    with (
        tempfile.TemporaryDirectory() as scratch,
        Child("benchmarks.rig.web", *options, log=Path(scratch, "log")) as child,
    ):
        yield Web(child, hosts)


if __name__ == "__main__":
    main()
