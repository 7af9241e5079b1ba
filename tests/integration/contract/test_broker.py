"""How processes reach Redis: they keep their connections and restore lost ones."""

from __future__ import annotations

import gc
import logging
import os
import signal
from collections.abc import Iterator

import pytest
import redis.exceptions
from celery import Celery
from kombu.exceptions import OperationalError

from contract.broker.connection import LONGEST_RECONNECT_S, make_celery, redis_of
from contract.settings import Settings
from tests.integration.dispatching import WITHIN_S, on_broker, until
from worker.embedded.valkey import Valkey


@pytest.fixture
def app(mortal_valkey: Valkey) -> Iterator[Celery]:
    app = make_celery(on_broker(Settings(), mortal_valkey.url))
    yield app
    app.close()


@pytest.fixture
def _no_garbage_is_collected() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_garbage_is_collected")
def test_repeated_calls_use_the_same_connection(app: Celery, mortal_valkey: Valkey) -> None:
    redis_of(app).ping()
    with mortal_valkey.client() as client:
        before = len(client.client_list())
        for _ in range(20):
            redis_of(app).ping()
        assert len(client.client_list()) == before


def test_reconnects_to_a_stopped_broker_never_wait_long(
    mortal_valkey: Valkey, app: Celery, monkeypatch
) -> None:
    """By default, Kombu's waits grow to 30 s."""
    mortal_valkey.kill()
    waits_s: list[float] = []
    monkeypatch.setattr("kombu.utils.functional.sleep", lambda _: None)
    with app.connection_for_read() as connection, pytest.raises(OperationalError):
        connection.ensure_connection(lambda _, wait_s: waits_s.append(wait_s), max_retries=12)
    assert len(waits_s) == 12
    assert max(waits_s) == LONGEST_RECONNECT_S
    mortal_valkey.start()


def test_a_client_reconnects_to_a_restarted_broker(app: Celery, mortal_valkey: Valkey) -> None:
    redis_of(app).set("key", "value")
    mortal_valkey.kill()
    with pytest.raises((redis.exceptions.RedisError, OSError)):
        redis_of(app).ping()
    mortal_valkey.start()
    assert until(lambda: redis_of(app).ping())


def test_a_connection_with_open_messages_closes_after_its_broker_died(
    app: Celery, mortal_valkey: Valkey
) -> None:
    """Celery closes a worker's connection this way. An error here would end the worker."""
    app.send_task("any")
    connection = app.connection_for_read()
    message = connection.SimpleQueue(app.conf.task_default_queue).get(timeout=WITHIN_S)
    mortal_valkey.kill()
    connection._do_close_transport()
    connection.close()
    message.ack_log_error(logging.getLogger(__name__), connection.connection_errors)
    mortal_valkey.start()


def test_a_message_that_could_not_be_acknowledged_blocks_no_other(
    app: Celery, mortal_valkey: Valkey, monkeypatch
) -> None:
    """The worker has finished it, and Redis answers again on the same connection."""
    monkeypatch.setitem(app.conf.broker_transport_options, "socket_timeout", 0.2)
    for _ in range(3):
        app.send_task("any")
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        channel.qos.prefetch_count = 2
        messages = [channel.basic_get(app.conf.task_default_queue) for _ in range(2)]
        assert not channel.qos.can_consume()
        assert mortal_valkey.pid is not None
        os.kill(mortal_valkey.pid, signal.SIGSTOP)
        for message, settle in zip(messages, ("ack_log_error", "reject_log_error"), strict=True):
            getattr(message, settle)(logging.getLogger(__name__), connection.connection_errors)
        os.kill(mortal_valkey.pid, signal.SIGCONT)
        assert channel.qos.can_consume_max_estimate() == 2
        third = channel.basic_get(app.conf.task_default_queue)
        third.ack()
