"""Kombu's transport for Redis with three changes: `QoS`, `Channel` and `Transport`.

`contract.broker.connection` connects through it.
"""

from __future__ import annotations

from base64 import b64decode
from json import JSONDecodeError
from typing import Any

from kombu.transport import redis, virtual

from contract.broker.dropped import drop


class QoS(redis.QoS):
    """The messages that a worker holds. Redis stores only their names.

    Kombu keeps a copy of each message in Redis, with an index by time, to deliver it again later.
    Here SQL knows which chunk is published and which worker runs it, so no copy is needed. The
    copies took half of the time that Celery's loop spends on a message. If a message goes back to
    the queue, it comes from this worker's memory.

    A message that the worker is done with frees its place, even if Redis does not answer. Celery
    then logs the failed acknowledgement and continues. In kombu's own class the place stays taken
    until the next connection. If all running tasks ended while Redis did not answer, and the
    connection survived, a worker never took a message again.
    """

    def append(self, message: Any, delivery_tag: str) -> None:  # noqa: ANN401  (kombu's)
        """Called by kombu for each message that arrives."""
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
        """Called by Celery if a task does not take its message."""
        try:
            if requeue:
                self.restore_by_tag(delivery_tag, leftmost=True)
        finally:
            self.ack(delivery_tag)

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:  # noqa: ANN401, FBT001, FBT002
        """Puts a message back into its queue; `leftmost` puts it last.

        Kombu calls this for all messages that a worker holds when its connection ends, and for
        messages that a worker of an older version has left in Redis.
        """
        message = self._delivered.get(tag)
        if message is None:
            super().restore_by_tag(tag, client, leftmost)  # type: ignore[no-untyped-call]
            return
        where = message.delivery_info
        with self.pipe_or_acquire(client=client) as pipe:
            pipe.hdel(self.unacked_key, tag)
            self.channel._do_restore_message(  # noqa: SLF001  (as kombu does)
                message._raw,  # noqa: SLF001
                where.get("exchange", ""),
                where.get("routing_key", ""),
                pipe,
                leftmost,
            )
            pipe.execute()


class Channel(redis.Channel):
    """A channel with one client for all commands. Kombu makes a client for each command, which
    takes longer than the command itself. A client has no state except its pool, and is safe for
    many threads.

    After a connection and its pool are closed, the new pool gets a new client.
    """

    QoS = QoS
    _kept: Any = None

    def _create_client(self, asynchronous: bool = False) -> Any:  # noqa: ANN401, FBT001, FBT002
        """Called by kombu for each command; `asynchronous`: the client waits for messages."""
        if asynchronous:
            return super()._create_client(asynchronous=True)  # type: ignore[no-untyped-call]
        if self._kept is None or self._kept.connection_pool is not self.pool:
            self._kept = super()._create_client()  # type: ignore[no-untyped-call]
        return self._kept

    def _brpop_read(self, **options: Any) -> Any:  # noqa: ANN401  (kombu's own)
        """Drops an item of the list if it is not JSON; kombu would end the worker."""
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            drop(f"it is not JSON ({type(error).__name__})")
            return False


class Transport(redis.Transport):
    Channel = Channel

    def _deliver(self, message: Any, queue: str) -> None:  # noqa: ANN401  (JSON)
        """Drops JSON that is not a message; kombu would end the worker."""
        fault = _fault_of(message)
        if fault is None:
            super()._deliver(message, queue)  # type: ignore[no-untyped-call]
        else:
            drop(fault)


def _fault_of(message: Any) -> str | None:  # noqa: ANN401  (JSON)
    """Why kombu cannot read the message; None if it can."""
    if not isinstance(message, dict) or not isinstance(message.get("properties"), dict):
        return "it is JSON, but not a message"
    properties = message["properties"]
    for holder, name, kind in (
        (properties, "delivery_tag", str),
        (properties, "delivery_info", dict),
        (message, "headers", dict),
        (message, "body", str),
    ):
        if not isinstance(holder.get(name), kind):
            return f"it is JSON, but its {name} is missing or of the wrong type"
    try:
        encoded = properties.get("body_encoding") == "base64"
        b64decode(message["body"] if encoded else "?", validate=True)
    except ValueError:
        return "its body is not valid base64"
    return None
