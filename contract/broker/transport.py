"""Kombu's way to Redis, with three things of our own; `contract.broker.connection` takes its
connections through it.
"""

from __future__ import annotations

from base64 import b64decode
from json import JSONDecodeError
from typing import Any

from kombu.transport import redis, virtual

from contract.broker.dropped import drop


class QoS(redis.QoS):
    """The messages that a worker holds. Redis gets their names and no more.

    Kombu keeps a copy of each message in Redis, with an index by time, to hand it out again one
    day. Here SQL knows which chunk is out, and who runs it. The copies took half of what Celery's
    loop does for a message. One that goes back to the queue is in this worker's memory.

    A message that the worker is done with takes no place any more, whatever Redis says. Celery
    logs that Redis did not hear of it, and goes on. With kombu's own the place would be taken until
    the next connection: after a silence of Redis that all running tasks ended in, and the
    connection survived, a worker took no message ever again.
    """

    def append(self, message: Any, delivery_tag: str) -> None:  # noqa: ANN401  (kombu's)
        """Called by kombu for each message that comes."""
        with self.channel.conn_or_acquire() as client:
            client.hset(self.unacked_key, delivery_tag, "")
        virtual.QoS.append(self, message, delivery_tag)  # type: ignore[no-untyped-call]

    def ack(self, delivery_tag: str) -> None:
        try:
            with self.channel.conn_or_acquire() as client:
                client.hdel(self.unacked_key, delivery_tag)
        finally:
            virtual.QoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call]

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002
        """Called by Celery where a task does not take its message."""
        try:
            if requeue:
                self.restore_by_tag(delivery_tag, leftmost=True)
        finally:
            self.ack(delivery_tag)

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:  # noqa: ANN401, FBT001, FBT002
        """Puts a message back into its queue, as the last one where it is `leftmost`.

        Kombu calls this for all that a worker holds when its connection ends, and for what a worker
        of an older version has left in Redis.
        """
        message = self._delivered.get(tag)
        if message is None:
            super().restore_by_tag(tag, client, leftmost)  # type: ignore[no-untyped-call]
            return
        where = message.delivery_info
        with self.pipe_or_acquire(client=client) as pipe:
            pipe.hdel(self.unacked_key, tag)
            self.channel._do_restore_message(  # noqa: SLF001  (as kombu's own does)
                message._raw,  # noqa: SLF001
                where.get("exchange", ""),
                where.get("routing_key", ""),
                pipe,
                leftmost,
            )
            pipe.execute()


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

    def _brpop_read(self, **options: Any) -> Any:  # noqa: ANN401  (kombu's own)
        """An item of the list that is no JSON is dropped; kombu would end the worker."""
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            drop(f"it is no JSON ({type(error).__name__})")
            return False


class Transport(redis.Transport):
    Channel = Channel

    def _deliver(self, message: Any, queue: str) -> None:  # noqa: ANN401  (JSON)
        """JSON that is no message is dropped; kombu would end the worker."""
        fault = _fault_of(message)
        if fault is None:
            super()._deliver(message, queue)  # type: ignore[no-untyped-call]
        else:
            drop(fault)


def _fault_of(message: Any) -> str | None:  # noqa: ANN401  (JSON)
    """Why kombu could not read it; None: it can."""
    if not isinstance(message, dict) or not isinstance(message.get("properties"), dict):
        return "it is JSON, but no message"
    properties = message["properties"]
    for holder, name, kind in (
        (properties, "delivery_tag", str),
        (properties, "delivery_info", dict),
        (message, "headers", dict),
        (message, "body", str),
    ):
        if not isinstance(holder.get(name), kind):
            return f"it is JSON, and its {name} is none"
    try:
        encoded = properties.get("body_encoding") == "base64"
        b64decode(message["body"] if encoded else "?", validate=True)
    except ValueError:
        return "its body is not in base64"
    return None
