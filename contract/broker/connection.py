"""How every process talks to Redis: one Celery configuration, one queue for each model.

Redis is the transport alone. No result is kept there, and nothing relies on Celery to run a
message again: a chunk whose message is lost is published again from SQL.
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from celery import Celery
from celery.app.amqp import AMQP
from kombu.connection import Connection
from kombu.exceptions import OperationalError

from contract.broker.tls import tls_of, without_tls_options
from contract.errors import BrokerUnavailable, SettingsError
from contract.models import short_model
from contract.settings import PREFIX, Settings

# Far above any chunk's time: a message that is handed out again while it runs is of no use.
VISIBILITY_TIMEOUT_S: Final = 7 * 24 * 3600
# Redis answers within milliseconds: a connection that does not is half open. While it is waited
# for nothing else is done. A poll, which takes a second, is looked at every so often, and given up
# at the second look: so a worker goes on within 15 s of a network that dropped its packets.
SOCKET_TIMEOUT_S: Final = 5
CONNECT_TIMEOUT_S: Final = 5
# Of a broker's URL, beside those of TLS; see `kombu.Connection`.
KOMBU_OPTIONS: Final = frozenset(("connect_timeout", "credential_provider", "heartbeat"))
# Kombu's own waits between tries grow to 30 s, and no setting of Celery's changes that.
LONGEST_RECONNECT_S: Final = 3.0


class PromptConnection(Connection):
    """Outlasts a broker that goes away, and finds it within moments of its being back."""

    def get_transport_cls(self) -> Any:  # noqa: ANN401
        """Imported when it is first used, since it loads the client of Redis."""
        from contract.broker.transport import Transport  # noqa: PLC0415

        return Transport

    def _ensure_connection(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        options = {"interval_start": 1, "interval_step": 1} | options
        options["interval_max"] = LONGEST_RECONNECT_S
        return super()._ensure_connection(*args, **options)  # type: ignore[no-untyped-call]

    def _do_close_transport(self) -> None:
        """Without taking from the transport what kombu needs to connect again: messages in hand
        are acknowledged or given back over it later, and an AttributeError then, instead of an
        error of the connection, would end the worker.
        """
        self._transport = None


class PromptAMQP(AMQP):  # type: ignore[misc]  # Celery has no types
    """How a Celery app comes to its connections."""

    Connection = PromptConnection


def make_celery(settings: Settings) -> Celery:
    """Makes a Celery app for producers and workers alike; it connects on first use.

    Raises:
        UnavailableError: no broker is configured.
        SettingsError: an option of the broker's URL is wrong.
    """
    url = settings.broker()
    _check_options(url)
    app = Celery("resnextq", broker=without_tls_options(url), amqp=PromptAMQP, set_as_current=False)
    app.conf.update(
        broker_use_ssl=tls_of(url) or False,
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        event_serializer="json",
        task_ignore_result=True,
        task_acks_late=True,
        task_default_queue=queue_of(settings.model, settings.weights, settings.precision),
        # What is prefetched beyond the running tasks helps nobody else.
        worker_prefetch_multiplier=1,
        # After a lost connection; worker.process.celery_worker sets the count anew each second.
        worker_enable_prefetch_count_reduction=False,
        worker_send_task_events=True,
        worker_enable_remote_control=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=CONNECT_TIMEOUT_S,
        broker_transport_options={
            "visibility_timeout": VISIBILITY_TIMEOUT_S,
            "socket_timeout": SOCKET_TIMEOUT_S,
            "socket_connect_timeout": CONNECT_TIMEOUT_S,
            "socket_keepalive": True,
            "health_check_interval": SOCKET_TIMEOUT_S,
        },
    )
    return app


def _check_options(broker_url: str) -> None:
    """Refuses what Kombu would raise a TypeError for; of a socket's URL it takes any option."""
    parts = urlsplit(broker_url)
    for name, _ in parse_qsl(parts.query) if parts.scheme != "redis+socket" else ():
        if not (name.startswith("ssl_") or name in KOMBU_OPTIONS):
            raise SettingsError(
                f"{PREFIX}BROKER_URL has the option {name}, which does not exist. Remove it."
            )


def queue_of(model: str, weights: str, precision: str) -> str:
    """The queue of the workers that serve this model: `resnext101_32x4d.nvidia.amp`.

    Of a file only the name counts, since machines keep it in different folders.
    """
    parts = (short_model(model), weights.rsplit("/", 1)[-1], precision)
    return ".".join(re.sub(r"[^A-Za-z0-9_-]+", "-", part) for part in parts)


def redis_of(app: Celery) -> Any:  # noqa: ANN401  (kombu gives whichever client fits the URL)
    """A Redis client with the app's address and time-outs: one for each connection of the app's
    pool, so as good as always the same. Safe for many threads.
    """
    with app.pool.acquire(block=True) as connection:
        return connection.default_channel.client


def check_broker(app: Celery) -> None:
    """
    Raises:
        BrokerUnavailable: Redis does not answer, or refuses the login.
    """
    try:
        with app.connection_for_write(connect_timeout=CONNECT_TIMEOUT_S) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=CONNECT_TIMEOUT_S)
            connection.default_channel.client.ping()
    except (OperationalError, OSError) as error:
        reason = str(error).splitlines()[0]
        advice = f"Start it, or correct {PREFIX}BROKER_URL."
        if "CERTIFICATE_VERIFY_FAILED" in reason:
            advice = (
                "Where its certificate is signed by an authority of your own, name that in "
                f"{PREFIX}BROKER_URL: ?ssl_ca_certs=/path/to/authority.pem."
            )
        raise BrokerUnavailable(
            f"Redis at {address_of(str(app.conf.broker_url))} does not answer: {reason}. {advice}"
        ) from error


def address_of(broker_url: str) -> str:
    """The URL without its password."""
    parts = urlsplit(broker_url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
