"""The worker as a process, with a real broker and both databases: tasks, events, signals."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update

from contract.broker.connection import redis_of
from contract.database.tables import chunks
from tests.integration.dispatching import WITHIN_S, until
from tests.integration.installation import Installation


def test_a_chunk_is_classified_and_its_failures_are_stored(installation: Installation) -> None:
    installation.submit(["double:ok", "double:fail:http_404", "double:ok", "double:fail:timeout"])
    installation.start()
    (message,) = installation.publish()
    until(lambda: installation.states() == {0: "pending"})

    rows = installation.rows()
    assert set(rows) == {0, 1, 2}
    assert (rows[0].class_1, rows[0].score_1, rows[0].sha256) == (7, 1.0, "d" * 64)
    assert (rows[1].error_code, rows[1].class_1) == ("http_404", None)
    assert rows[2].worker in installation.workers()
    for _ in range(2):
        installation.publish()
        until(
            lambda: installation.states()[0] != "queued" and installation.states()[0] != "running"
        )
    assert installation.states() == {0: "done"}
    assert (installation.rows()[3].error_code, installation.rows()[3].attempts) == ("timeout", 3)
    assert installation.tallied() == 4
    assert str(message) in installation.log
    assert "double:" not in installation.log, "the log has no URIs at level INFO"


def test_duplicate_messages_are_dropped(installation: Installation) -> None:
    installation.submit(["double:ok"] * 3)
    messages = installation.publish()
    for _ in range(3):
        installation.send(messages[0].encode())
    installation.start()
    installation.await_states("done")
    until(lambda: installation.unacknowledged() == installation.waiting_messages() == 0)
    assert (len(installation.rows()), installation.tallied()) == (3, 3)


def test_stragglers_outlast_their_task_and_are_stored(
    installation: Installation, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    installation.submit(["double:ok", f"double:after:{gate}", "double:ok"])
    installation.start()
    installation.publish()
    until(lambda: installation.left() == {1})
    assert installation.states() == {0: "running"}
    until(lambda: installation.unacknowledged() == 0)  # the task has ended
    assert "loading=1" in installation.log

    gate.touch()
    installation.await_states("done")
    assert set(installation.rows()) == {0, 1, 2}
    assert installation.tallied() == 3


def test_stragglers_do_not_delay_other_chunks(installation: Installation) -> None:
    installation.submit(*[["double:hang", "double:ok"]] * 3, ["double:ok"])
    installation.start()
    installation.publish()
    until(lambda: installation.left() == {0, 100, 200}, lambda: installation.log)
    assert installation.states() == {0: "running", 1: "running", 2: "running", 3: "done"}


def test_a_worker_takes_only_what_it_can_do_in_some_seconds(
    installation: Installation, tmp_path: Path
) -> None:
    """It leaves the rest of twenty chunks to other workers until its own rate is known."""
    gate = tmp_path / "gate"
    installation.submit(*[[f"double:hold:{gate}"] * 8] * 20)
    with captured_events(installation) as events:
        installation.start(CHUNKS_IN_FLIGHT="64", CHUNK_IMAGES="8", IN_FLIGHT_S="1000")
        installation.publish()
        until(lambda: gate.with_suffix(".held").exists() and installation.unacknowledged() == 2)
        seen = len(events)
        # Celery sends a heartbeat every two seconds, and asks every second how much to take.
        until(lambda: len(of_type("worker-heartbeat", events[seen:])) >= 2)
    assert (installation.unacknowledged(), installation.waiting_messages()) == (2, 18)
    held = redis_of(installation.app).hvals("unacked")
    assert held == [b"", b""], "Redis has only the names of unacknowledged messages, no copies"
    gate.touch()
    until(lambda: set(installation.states().values()) == {"done"}, lambda: installation.log)
    assert len(installation.rows()) == 160


Events = list[dict[str, Any]]


def of_type(kind: str, events: Events) -> Events:
    return [event for event in events if event["type"] == kind]


@contextmanager
def captured_events(installation: Installation) -> Iterator[list[dict[str, Any]]]:
    """Collect the events that Flower would get meanwhile."""
    events: list[dict[str, Any]] = []
    with installation.app.connection_for_read() as connection:
        receiver = installation.app.events.Receiver(connection, handlers={"*": events.append})
        capture = threading.Thread(
            target=lambda: receiver.capture(limit=None, timeout=None, wakeup=False), daemon=True
        )
        capture.start()
        yield events
        receiver.should_stop = True
        capture.join(WITHIN_S)


def test_flower_hears_of_a_task_that_ends_while_its_worker_stops(
    installation: Installation, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    installation.submit([f"double:hold:{gate}"])
    with captured_events(installation) as events:
        worker = installation.start()
        installation.publish()
        until(gate.with_suffix(".held").exists)
        worker.send_signal(signal.SIGTERM)
        until(lambda: "Stopping within" in installation.log)
        until(lambda: of_type("worker-offline", events))  # now it only waits for its tasks
        gate.touch()
        assert worker.wait(WITHIN_S) == 0, installation.log
        until(lambda: of_type("task-succeeded", events), lambda: str(events))


def test_flower_gets_a_tasks_name_arguments_and_result(installation: Installation) -> None:
    """A chunk with failed images counts as a failure, which says how many failed."""
    with captured_events(installation) as events:
        installation.submit(["double:ok", "double:fail:http_404", "double:hang"])
        installation.start()
        (message,) = installation.publish()
        until(lambda: [e for e in events if e["type"] == "task-failed"], lambda: str(events))
    received = next(event for event in events if event["type"] == "task-received")
    assert (received["name"], received["args"]) == ("resnext.classify_chunk", "")
    assert received["kwargs"] == str(message)
    failed = next(event for event in events if event["type"] == "task-failed")
    assert failed["exception"] == "1 of 3 images failed: http_404 1"
    assert failed["runtime"] > 0
    summary = json.loads(failed["result"].replace("'", '"'))
    assert summary.pop("images_per_s") > 0
    for stage in ("queue_wait_ms", "store_ms"):
        assert summary.pop(stage) >= 0
    for stage in ("batch_wait_ms", "device_ms"):
        assert summary.pop(stage).keys() == {"median", "max"}
    assert summary == {
        "images": 3, "classified": 1, "failed": {"http_404": 1}, "retried": 0, "loading": 1,
        "handed_back": 0, "deferred": 0, "fetch_ms": {"median": 750.0, "max": 750.0},
        "decode_wait_ms": {"median": 0.0, "max": 0.0}, "decode_ms": {"median": 2.0, "max": 2.0},
        "batch_images": {"median": 1, "max": 1}, "bytes": 1000,
    }  # fmt: skip
    assert " fetch_ms=750.0/750.0 " in installation.log


def test_a_message_from_a_newer_program_goes_back_to_the_queue(installation: Installation) -> None:
    installation.submit(["double:ok"])
    worker = installation.start()
    installation.send({"version": 99, "anything": "new"})
    until(lambda: "message version 99" in installation.log)
    installation.publish()
    installation.await_states("done")  # the other thread runs it
    assert installation.log.count("message version 99") == 1, (
        "the worker must not take it again and again"
    )
    worker.terminate()
    assert worker.wait(WITHIN_S) == 0
    assert installation.waiting_messages() == 1


def test_a_foreign_message_is_dropped_and_logged(installation: Installation) -> None:
    installation.start()
    installation.send({"version": 1, "job": "x"})
    until(lambda: "Dropped a message" in installation.log, lambda: installation.log)
    until(lambda: installation.unacknowledged() == installation.waiting_messages() == 0)


JUNK = [
    b"no JSON",
    b"\xff\xfe",
    b"[" * 100_000,
    b"[]",
    b"null",
    b"{}",
    b'{"properties": {}}',
    b'{"properties": {"delivery_tag": 1, "delivery_info": {}}, "headers": {}, "body": "e30="}',
    (
        b'{"properties": {"delivery_tag": "t", "delivery_info": {}, "body_encoding": "base64"},'
        b' "headers": {}, "body": "not base64!"}'
    ),
    b'{"properties": {"delivery_tag": "t", "delivery_info": {}}, "headers": {}, "body": "e30="}',
]


def test_a_worker_drops_any_junk_in_the_queue_and_continues(
    installation: Installation,
) -> None:
    installation.submit(["double:ok"])
    worker = installation.start(METRICS_PORT="0")
    client = redis_of(installation.app)
    for item in JUNK:
        client.lpush(installation.queue, item)
    (message,) = installation.publish()
    for change in (
        {"version": None},
        {"version": [1]},
        {"version": {}},
        {"uris": ["http://a.example/" + "a" * 200_000]},
    ):
        installation.send(message.encode() | change)
    installation.await_states("done")
    dropped = len(JUNK) + 4
    until(lambda: installation.log.count("Dropped a message") == dropped, lambda: installation.log)
    until(lambda: installation.unacknowledged() == installation.waiting_messages() == 0)
    assert scrape(installation)["resnext_dropped_messages_total"] == dropped
    assert worker.poll() is None


def test_a_message_cannot_change_which_uris_are_fetched(
    installation: Installation,
) -> None:
    installation.submit(["double:ok", "double:fail:http_404"])
    (message,) = installation.publish()
    redis_of(installation.app).delete(installation.queue)
    installation.send(message.encode() | {"uris": ["file:///etc/passwd", "double:ok"]})
    installation.start()
    installation.await_states("done")
    rows = installation.rows()
    assert [(rows[n].uri, rows[n].error_code) for n in (0, 1)] == [
        ("double:ok", None),
        ("double:fail:http_404", "http_404"),
    ]
    assert "has other URIs than SQL;" in installation.log


def test_a_stopping_worker_finishes_its_batch_and_hands_back_the_rest(
    installation: Installation, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    installation.submit(
        ["double:hang", f"double:hold:{gate}", "double:fail:http_404"],
        ["double:hang", "double:fail:http_404"],  # becomes a straggler
        ["double:ok"] * 3,  # prefetched, or waiting in Redis
        ["double:ok"] * 3,
        ["double:ok"] * 3,
    )
    worker = installation.start(CHUNKS_IN_FLIGHT="1", CHUNK_PATIENCE_S="0.2")
    with installation.engine.begin() as connection:  # publish the straggling chunk first
        connection.execute(update(chunks).where(chunks.c.chunk != 1).values(state="later"))
    installation.publish()
    until(lambda: installation.left() & {100, 101} == {100})
    with installation.engine.begin() as connection:
        connection.execute(update(chunks).where(chunks.c.state == "later").values(state="pending"))
    with installation.engine.begin() as connection:
        connection.execute(update(chunks).where(chunks.c.chunk > 1).values(state="later"))
    installation.publish()
    until(gate.with_suffix(".held").exists)
    with installation.engine.begin() as connection:
        connection.execute(update(chunks).where(chunks.c.state == "later").values(state="pending"))
    installation.publish()

    worker.send_signal(signal.SIGTERM)
    until(lambda: "Stopping within" in installation.log)
    gate.touch()

    assert worker.wait(WITHIN_S) == 0, installation.log
    assert set(installation.rows()) == {1, 2, 101}
    assert installation.left() == {0, 100, *range(200, 203), *range(300, 303), *range(400, 403)}
    assert installation.tallied() == 3
    states = installation.states()
    assert (states[0], states[1]) == ("pending", "pending")
    assert set(states.values()) == {"pending", "queued"}
    queued = sum(state == "queued" for state in states.values())
    assert (installation.waiting_messages(), installation.unacknowledged()) == (queued, 0)
    assert installation.workers() == []
    assert "The worker holds no images any more" in installation.log


def test_the_next_worker_finishes_what_was_handed_back(
    installation: Installation, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    installation.submit([f"double:after:{gate}", "double:ok"], ["double:ok"])
    worker = installation.start()
    installation.publish()
    until(lambda: installation.left() == {0})
    worker.send_signal(signal.SIGINT)
    assert worker.wait(WITHIN_S) == 0, installation.log
    assert installation.states()[0] == "pending"

    gate.touch()
    installation.publish()
    installation.start()
    installation.await_states("done", "done")
    assert {position: row.attempts for position, row in installation.rows().items()} == {
        0: 1, 1: 1, 100: 1,
    }  # fmt: skip


def test_a_worker_with_a_broken_device_stores_nothing_and_ends(
    installation: Installation, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    installation.submit(*[[f"double:break:{broken}"]] * 4)
    with installation.engine.begin() as connection:  # leave the first chunk one attempt
        connection.execute(update(chunks).where(chunks.c.chunk == 0).values(attempt=2))
    worker = installation.start(CHUNKS_IN_FLIGHT="1")
    installation.publish()

    assert worker.wait(WITHIN_S) != 0
    assert installation.rows() == {}
    states = list(installation.states().values())
    assert set(states) <= {"pending", "queued"}
    assert states.count("pending") >= 3
    assert "3 batches in a row. The last error: device fell off" in installation.log
    assert installation.workers() == []

    broken.unlink()
    installation.publish()
    installation.start()
    installation.await_states("done", "done", "done", "done")
    assert installation.tallied() == len(installation.rows()) == 4


def test_a_second_signal_stops_a_worker_at_once(installation: Installation, tmp_path: Path) -> None:
    gate = tmp_path / "never"
    installation.submit([f"double:hold:{gate}", "double:ok"])
    worker = installation.start(STOP_WITHIN_S="3600")
    installation.publish()
    until(gate.with_suffix(".held").exists)
    worker.terminate()
    until(lambda: "Stopping within" in installation.log)
    assert worker.poll() is None
    worker.terminate()
    assert worker.wait(WITHIN_S) == 1
    assert installation.states() == {0: "running"}  # it stays so until the lease ends
    assert len(installation.workers()) == 1


def test_a_worker_that_cannot_finish_in_time_ends(
    installation: Installation, tmp_path: Path
) -> None:
    gate = tmp_path / "never"
    installation.submit([f"double:hold:{gate}"])
    worker = installation.start(STOP_WITHIN_S="0.5")
    installation.publish()
    until(gate.with_suffix(".held").exists)
    worker.terminate()
    assert worker.wait(WITHIN_S) == 1
    assert "The worker has not stopped within" in installation.log


def test_a_workers_memory_is_unreadable_before_it_starts_loaders(
    installation: Installation,
) -> None:
    """A loader that was taken over is a process of the same user, which could read /proc."""
    program = """
import ctypes
from contract.settings import load_settings
from worker.pool.pool import LoaderPool
from worker.main import run_worker

PR_GET_DUMPABLE = 3

def start(pool):
    raise SystemExit(f"dumpable: {ctypes.CDLL(None).prctl(PR_GET_DUMPABLE)}")

LoaderPool.start = start
run_worker(load_settings())
"""
    worker = subprocess.run(
        [sys.executable, "-c", program],
        env=installation.environment,
        capture_output=True,
        check=False,
    )
    assert worker.stderr.splitlines()[-1] == b"dumpable: 0"


def test_the_log_is_plain_and_has_no_password(installation: Installation) -> None:
    installation.submit(["double:ok"])
    worker = installation.start(LOG_LEVEL="INFO")
    installation.publish()
    installation.await_states("done")
    worker.terminate()
    assert worker.wait(WITHIN_S) == 0
    password = installation.settings.broker().partition("://:")[2].partition("@")[0]
    assert len(password) > 10
    assert password not in installation.log
    assert "\x1b" not in installation.log
    assert "Traceback" not in installation.log


# Metrics


def scrape(installation: Installation) -> dict[str, float]:
    """The worker's metrics: each value by its name and labels."""
    port = re.search(r"metrics on 127\.0\.0\.1, port (\d+)", installation.log)
    assert port is not None, installation.log
    with urlopen(f"http://127.0.0.1:{port[1]}/metrics", timeout=WITHIN_S) as response:
        families = text_string_to_metric_families(response.read().decode())
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in families
        for sample in family.samples
    }


def test_the_metrics_match_the_rows_in_sql(installation: Installation) -> None:
    installation.submit(
        ["double:ok"] * 3 + ["double:fail:http_404"] * 2,
        ["double:ok", "double:fail:timeout", "double:fail:not_an_image", "double:fail:http_404"],
        ["double:hang"],
    )
    installation.start(METRICS_PORT="0")
    installation.publish()
    until(lambda: installation.states() == {0: "done", 1: "pending", 2: "running"})
    until(lambda: scrape(installation)["resnext_store_seconds_count"] == 2)
    until(lambda: installation.unacknowledged() == 0)

    found = scrape(installation)
    by_code: dict[str, int] = {}
    for row in installation.rows().values():
        labels = " classified" if row.error_code is None else f"{row.error_code} failed"
        by_code[labels] = by_code.get(labels, 0) + 1
    assert by_code == {" classified": 4, "http_404 failed": 3, "not_an_image failed": 1}
    images = "resnext_images_total "
    counted = {name.removeprefix(images): n for name, n in found.items() if images in name}
    assert counted == by_code | {"timeout retried": 1, " handed_back": 0, " deferred": 0}
    assert found["resnext_bytes_total"] == 4000
    assert found["resnext_fetch_seconds_count"] == 9
    assert found["resnext_fetch_seconds_sum"] == 4 * 0.25 + 5 * 0.75
    assert found["resnext_decode_seconds_count"] == 4
    assert found["resnext_batch_images_sum"] == found["resnext_batch_wait_seconds_count"] == 4
    assert found["resnext_queue_wait_seconds_count"] == 3
    assert found["resnext_images_in_flight loading"] == 1
    assert found["resnext_chunks_in_flight"] == 1
    assert 0 < found["resnext_device_busy_seconds_total"] < found["process_start_time_seconds"]
    (worker,) = installation.workers()
    assert any("resnext_worker_info" in name and name.endswith(f" {worker}") for name in found)


def listening(pid: int) -> list[str]:
    """The addresses on which a process listens, in the kernel's notation."""
    sockets = {str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [
        row.split()
        for table in ("tcp", "tcp6")
        for row in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
    ]
    return [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets]


def test_a_metrics_port_is_opened_only_on_request_and_on_loopback(
    installation: Installation,
) -> None:
    quiet = installation.start()
    assert listening(quiet.pid) == []
    (address,) = listening(installation.start(METRICS_PORT="0").pid)
    assert address.startswith("0100007F:")


@pytest.mark.parametrize("address", ["127.0.0.1", "192.0.2.1", "no.such.host.invalid"])
def test_a_bad_metrics_address_is_reported_before_weights_are_loaded(
    installation: Installation, address
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [Path(sys.executable).with_name("resnextq"), "worker"],
            env=installation.environment
            | {
                "RESNEXT_METRICS_PORT": port,
                "RESNEXT_METRICS_ADDRESS": address,
                "RESNEXT_WEIGHTS": "/nowhere/weights.pth",
            },
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 3, done.stderr
    assert f"The metrics cannot be served on {address}:{port}: " in done.stderr
    assert "Set RESNEXT_METRICS_PORT to a free port" in done.stderr
    assert "/nowhere" not in done.stderr
    assert "Traceback" not in done.stderr
