"""Which of Celery's remote commands a worker answers: those that the dashboard shows things by.

They come through Redis, from everyone who can write there, and Celery knows many that change or
stop a worker. `worker.process.celery_worker` installs the filter before Celery listens.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from celery import Celery
from kombu import pidbox

from contract.broker.connection import address_of

log = logging.getLogger(__name__)

ANSWERED: Final = frozenset(
    {
        "active",
        "active_queues",
        "conf",
        # Flower sends it every five seconds. Workers tell their events anyway.
        "enable_events",
        "ping",
        "registered",
        "reserved",
        "revoked",
        "scheduled",
        "stats",
    }
)
ADVICE: Final = (
    "workers of resnext-queue answer no remote command that changes them. To end a job: "
    "resnextq cancel. To stop a worker: SIGTERM."
)
SHOWN_CHARACTERS: Final = 50
# Of what Celery says of a connection. Others may hold a password, or keys.
SHOWN_OF_BROKER: Final = (
    "transport",
    "userid",
    "port",
    "virtual_host",
    "connect_timeout",
    "heartbeat",
    "insist",
    "login_method",
    "failover_strategy",
    "uri_prefix",
)
BROKER_URLS: Final = ("broker_url", "broker_read_url", "broker_write_url")


class AnsweringNode(pidbox.Node):
    """Celery's end of the mailbox, which refuses what is not in `ANSWERED`."""

    def handle(self, method: object, arguments: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401
        """The reply, as JSON will have it. Celery calls this for every command."""
        if not isinstance(method, str) or method not in ANSWERED:
            shown = str(method)[:SHOWN_CHARACTERS]
            log.warning("Refused the remote command %s: %s", shown, ADVICE)
            return {"error": f"{shown} is refused: {ADVICE}"}
        reply = super().handle(method, arguments)  # type: ignore[no-untyped-call]
        return _without_passwords(reply) if method == "conf" else reply


def install(app: Celery) -> None:
    """Makes the app's worker answer these commands alone."""
    app.control.mailbox.node_cls = AnsweringNode


def shown_broker(url: str, connection: Mapping[str, Any]) -> dict[str, Any]:
    """What a worker says of its connection to the broker, whose URL this is.

    Celery takes out the password alone, and a `redis+socket://` URL has its own in `hostname`.
    """
    known = {name: connection[name] for name in SHOWN_OF_BROKER if name in connection}
    return {"hostname": address_of(url), "ssl": bool(connection.get("ssl"))} | known


def _without_passwords(conf: Mapping[str, Any]) -> dict[str, Any]:
    hidden = {name: address_of(conf[name]) for name in BROKER_URLS if conf.get(name)}
    return {**conf, **hidden}
