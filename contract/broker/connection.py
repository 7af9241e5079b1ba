"""How every process talks to Redis: one Celery configuration, one queue for each model.

Redis is only the transport. It keeps no results, and nothing relies on Celery to run a message
again: if a message is lost, the dispatcher publishes its chunk again from SQL.
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

# Far longer than any chunk takes: delivering a message again while its chunk runs is of no use.
VISIBILITY_TIMEOUT_S: Final = 7 * 24 * 3600
# Redis answers within milliseconds, so a connection that takes longer is half open. Nothing else is
# done while waiting for it. A poll takes a second; it is checked at this interval and given up at
# the second check. So a worker continues within 15 s after a network dropped its packets.
SOCKET_TIMEOUT_S: Final = 5
CONNECT_TIMEOUT_S: Final = 5
# Options of a broker's URL, besides those for TLS; see `kombu.Connection`.
KOMBU_OPTIONS: Final = frozenset(("connect_timeout", "credential_provider", "heartbeat"))
# Kombu's own waits between tries grow to 30 s, and no setting of Celery's changes that.
LONGEST_RECONNECT_S: Final = 3.0


class PromptConnection(Connection):
    """Survives a broker that goes away, and reconnects soon after the broker is back."""

    def get_transport_cls(self) -> Any:  # noqa: ANN401
        """Imports the transport on first use, because it loads the Redis client."""
        from contract.broker.transport import Transport  # noqa: PLC0415

        return Transport

    def _ensure_connection(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        options = {"interval_start": 1, "interval_step": 1} | options
        options["interval_max"] = LONGEST_RECONNECT_S
        return super()._ensure_connection(*args, **options)  # type: ignore[no-untyped-call]

    def _do_close_transport(self) -> None:
        """Keeps what the transport needs to connect again. The worker acknowledges or returns the
        messages that it holds over this transport later. It survives a connection error then, but
        not the AttributeError that kombu's own method would cause.
        """
        self._transport = None


class PromptAMQP(AMQP):  # type: ignore[misc]  # Celery has no types
    """Gives a Celery app these connections."""

    Connection = PromptConnection


def make_celery(settings: Settings) -> Celery:
    """Makes a Celery app, for producers and workers. It connects on first use.

    Raises:
        UnavailableError: no broker is configured.
        SettingsError: an option in the broker's URL is wrong.
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
        # Other workers cannot take a message that is prefetched beyond the running tasks.
        worker_prefetch_multiplier=1,
        # Applies after a lost connection. worker.process.celery_worker sets the count every second.
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
    """Refuses options for which kombu would raise a TypeError. A socket's URL may have any."""
    parts = urlsplit(broker_url)
    for name, _ in parse_qsl(parts.query) if parts.scheme != "redis+socket" else ():
        if not (name.startswith("ssl_") or name in KOMBU_OPTIONS):
            raise SettingsError(
                f"{PREFIX}BROKER_URL has the option {name}, which does not exist. Remove it."
            )


def queue_of(model: str, weights: str, precision: str) -> str:
    """The queue of the workers that serve this model: `resnext101_32x4d.nvidia.amp`.

    For a file only its name counts, because its folder may differ between machines.
    """
    parts = (short_model(model), weights.rsplit("/", 1)[-1], precision)
    return ".".join(re.sub(r"[^A-Za-z0-9_-]+", "-", part) for part in parts)


def redis_of(app: Celery) -> Any:  # noqa: ANN401  (kombu gives whichever client fits the URL)
    """A Redis client with the app's address and timeouts. Each connection in the app's pool has
    one, so it is almost always the same client. Safe for many threads.
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
                "If your own authority signed its certificate, name that authority in "
                f"{PREFIX}BROKER_URL: ?ssl_ca_certs=/path/to/authority.pem."
            )
        raise BrokerUnavailable(
            f"Redis at {address_of(str(app.conf.broker_url))} does not answer: {reason}. {advice}"
        ) from error


def address_of(broker_url: str) -> str:
    """The URL without its password."""
    parts = urlsplit(broker_url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
