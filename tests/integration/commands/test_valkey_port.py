"""The broker of `up` on loopback: its port may be taken between the choice and the start."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.errors import UnavailableError
from worker.embedded import valkey
from worker.embedded.valkey import FREE_PORTS, MAX_SOCKET_PATH_BYTES, Valkey


@pytest.fixture
def taken() -> Iterator[int]:
    """A port at which another program listens."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Valkey]:
    """A Valkey whose path is too long for a socket."""
    server = Valkey(tmp_path / ("v" * MAX_SOCKET_PATH_BYTES), append_only=False)
    yield server
    server.stop()


def test_another_port_is_tried_if_the_chosen_one_is_taken(
    server: Valkey, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, ports = valkey._free_port(), iter([taken, taken])
    monkeypatch.setattr(valkey, "_free_port", lambda: next(ports, free))
    server.start()
    assert server.client().ping()
    assert f":{free}/" in server.url


def test_a_port_that_is_taken_again_and_again_is_an_error(
    server: Valkey, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    monkeypatch.setattr(valkey, "_free_port", lambda: tried.append(taken) or taken)
    with pytest.raises(UnavailableError, match="Address already in use"):
        server.start()
    assert len(tried) == FREE_PORTS
    assert server.pid is None


def test_a_restart_uses_the_same_port(server: Valkey) -> None:
    """Other processes know it."""
    server.start()
    url = server.url
    server.kill()
    server.start()
    assert server.url == url
