"""The log of a real Valkey, whose size `up` limits."""

from __future__ import annotations

from pathlib import Path

from contract.log_file import turn_if_full
from tests.wait import until
from worker.embedded.valkey import Valkey


def test_valkey_continues_in_a_new_file_when_its_log_is_rotated(tmp_path: Path) -> None:
    server = Valkey(tmp_path / "valkey")
    server.start()
    try:
        before = server.log.read_text()
        assert "Ready to accept connections" in before
        turn_if_full(server.log, most_bytes=1, kept=1)
        with server.client() as client:
            client.bgrewriteaof()
        until(server.log.exists)
        until(lambda: "rewriting" in server.log.read_text(), server.log.read_text)
        assert server.log.with_name("valkey.log.1").read_text().startswith(before)
    finally:
        server.stop()
