"""Kombu's way to Redis, with two things of our own; `contract.broker.connection` takes its
connections through it.
"""

from __future__ import annotations

from typing import Any

from kombu.transport import redis, virtual


class QoS(redis.QoS):
    """A message that the worker is done with takes no place any more, whatever Redis says.

    Celery logs that Redis did not hear of it, and goes on. With kombu's own the place would be
    taken until the next connection: after a silence of Redis that all running tasks ended in,
    and the connection survived, a worker took no message ever again. What stays in Redis comes
    back some time, and SQL refuses it.
    """

    def ack(self, delivery_tag: str) -> None:
        try:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]
        finally:
            virtual.QoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call]

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002
        try:
            super().reject(delivery_tag, requeue)  # type: ignore[no-untyped-call]
        finally:
            virtual.QoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call]


class Channel(redis.Channel):
    """With one client for all commands. Kombu makes one for each, which takes longer than the
    command itself; a client has no state but its pool, and is safe for many threads.

    A pool that is closed with its connection has a client of its own again.
    """

    QoS = QoS
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
