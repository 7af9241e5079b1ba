"""A filter for Celery's remote commands: a worker answers only those that the dashboard needs.

Everyone who can write to Redis can send such commands, and many of them change or stop a worker.
`worker.process.celery_worker` installs the filter before Celery listens.
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
        # Flower sends this every five seconds. Workers always send their events.
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
    "a worker of resnext-queue accepts no remote command that changes it. To end a job: "
    "resnextq cancel. To stop a worker: SIGTERM."
)
SHOWN_CHARACTERS: Final = 50
# The fields of Celery's report on the connection that are shown. Others may hold passwords or keys.
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
    """Celery's mailbox, but refuses commands that are not in `ANSWERED`."""

    def handle(self, method: object, arguments: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401
        """Returns the reply, which must fit JSON. Celery calls this for every command."""
        if not isinstance(method, str) or method not in ANSWERED:
            shown = str(method)[:SHOWN_CHARACTERS]
            log.warning("Refused the remote command %s: %s", shown, ADVICE)
            return {"error": f"{shown} is refused: {ADVICE}"}
        reply = super().handle(method, arguments)  # type: ignore[no-untyped-call]
        return _without_passwords(reply) if method == "conf" else reply


def install(app: Celery) -> None:
    """Makes the app's worker answer only these commands."""
    app.control.mailbox.node_cls = AnsweringNode


def shown_broker(url: str, connection: Mapping[str, Any]) -> dict[str, Any]:
    """The worker's report on its connection to the broker at `url`, without passwords.

    Celery only removes its field `password`. With a `redis+socket://` URL the password is in
    `hostname`.
    """
    known = {name: connection[name] for name in SHOWN_OF_BROKER if name in connection}
    return {"hostname": address_of(url), "ssl": bool(connection.get("ssl"))} | known


def _without_passwords(conf: Mapping[str, Any]) -> dict[str, Any]:
    hidden = {name: address_of(conf[name]) for name in BROKER_URLS if conf.get(name)}
    return {**conf, **hidden}
