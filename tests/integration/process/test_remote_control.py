"""Celery's remote commands over the real broker: workers answer queries and refuse changes.

Anyone who can write to Redis can send these commands.
"""

from __future__ import annotations

import signal
from typing import Any

import pytest
from celery.worker.control import Panel

from tests.integration.dispatching import WITHIN_S, until
from tests.integration.installation import Installation
from worker.process.remote_control import ANSWERED

TASK = "resnext.classify_chunk"
ARGUMENTS = {
    "add_consumer": {"queue": "other"},
    "autoscale": {"max": 1, "min": 1},
    "cancel_consumer": {"queue": "resnext101_32x4d.nvidia.amp"},
    "election": {"id": "1", "topic": "any"},
    "hello": {"from_node": "other", "revoked": ["any"]},
    "pool_grow": {"n": 1},
    "pool_shrink": {"n": 2},
    "query_task": {"ids": ["any"]},
    "rate_limit": {"task_name": TASK, "rate_limit": "1/h"},
    "revoke": {"task_id": "any", "terminate": True},
    "revoke_by_stamped_headers": {"headers": {"any": ["any"]}},
    "terminate": {"signal": "KILL", "task_id": "any"},
    "time_limit": {"task_name": TASK, "soft": 0.1, "hard": 0.1},
}
REFUSED = sorted({*Panel.data, "no such command"} - ANSWERED)
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def send(installation: Installation, command: object) -> Any:
    """Send a command and return the only worker's reply."""
    ((reply,),) = (
        answer.values()
        for answer in installation.app.control.broadcast(
            command,
            arguments=ARGUMENTS.get(str(command), {}),
            reply=True,
            timeout=WITHIN_S,
            limit=1,
        )
    )
    return reply


def test_a_worker_refuses_every_command_that_changes_it(installation: Installation) -> None:
    installation.submit(["double:ok"])
    worker = installation.start(CHUNKS_IN_FLIGHT="2")
    for command in [*REFUSED, ["no", "text"], 7]:
        reply = send(installation, command)
        assert "is refused: a worker of resnext-queue accepts no remote command" in reply["error"]
        assert f"Refused the remote command {command}: " in installation.log
    assert "Traceback" not in installation.log
    before = send(installation, "stats")
    assert before["pool"]["max-concurrency"] == 2
    queues = [queue["name"] for queue in send(installation, "active_queues")]
    assert queues == [installation.queue]
    installation.publish()
    installation.await_states("done")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(WITHIN_S) == 0


def test_a_command_without_a_reply_is_refused(installation: Installation) -> None:
    installation.submit(["double:ok"])
    installation.start()
    installation.app.control.shutdown()
    installation.app.control.cancel_consumer(installation.queue)
    until(lambda: installation.log.count("Refused the remote command") == 2)
    installation.publish()
    installation.await_states("done")


def test_the_dashboards_queries_are_answered(installation: Installation) -> None:
    installation.start()
    replies = {command: send(installation, command) for command in sorted(ANSWERED)}
    assert not [reply for reply in replies.values() if "error" in reply]
    assert replies["ping"] == {"ok": "pong"}
    assert replies["registered"] == [TASK]


def test_the_name_of_a_refused_command_forges_no_log_line(
    installation: Installation,
) -> None:
    installation.start()
    send(installation, "x\n2026-01-01 00:00:00,000 ERROR forged: ")
    until(lambda: "Refused" in installation.log)
    assert not [line for line in installation.log.splitlines() if line.startswith("2026-01-01")]
    assert r"x\n2026-01-01" in installation.log
