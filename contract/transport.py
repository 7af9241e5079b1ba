"""Kombu's way to Redis, with one client for all commands of a channel.

`contract.broker` takes its connections through it. Kombu makes a client for each command, which
takes longer than the command itself; a client has no state but its pool, and is safe for many
threads.
"""

from __future__ import annotations

from typing import Any

from kombu.transport import redis


class Channel(redis.Channel):
    """Owns the client. A pool that is closed with its connection has one of its own again."""

    _kept: Any = None

    def _create_client(self, asynchronous: bool = False) -> Any:  # noqa: ANN401, FBT001, FBT002
        """Called by kombu for each command; `asynchronous`: for what waits for messages."""
        if asynchronous:
            return super()._create_client(asynchronous=True)  # type: ignore[no-untyped-call]
        if self._kept is None or self._kept.connection_pool is not self.pool:
            self._kept = super()._create_client()  # type: ignore[no-untyped-call]
        return self._kept


class Transport(redis.Transport):
    Channel = Channel
