"""A job goes through all commands: `submit`, `dispatch`, `worker`, `status`, `results`."""

from __future__ import annotations

import os
import signal

import pytest


def begun(status) -> bool:
    return status["classified"] > 0


# For tests that do not depend on the database, or run on both elsewhere without a network.
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def test_every_image_gets_its_classes_or_a_reason(installation, web, tmp_path) -> None:
    (tmp_path / "words.jpg").write_text("These are words.")
    job = installation.submit(
        f"{web}/chelsea.jpg",
        f"{web}/nothing-here.jpg",
        (tmp_path / "words.jpg").as_uri(),
        (tmp_path / "gone.jpg").as_uri(),
        "http://127.0.0.1:9/closed.jpg",
        f"{web}/coffee.jpg",
    )
    installation.start("dispatch")
    installation.start("worker")

    status = installation.wait(job)

    assert (status["total"], status["classified"], status["failed"]) == (6, 2, 4)
    results = installation.results(job)
    assert [result["position"] for result in results] == list(range(6))
    failures = {r["position"]: r["error"]["code"] for r in results if r["status"] == "failed"}
    assert failures == {1: "http_404", 2: "not_an_image", 3: "not_found", 4: "connect"}
    assert status["errors"] == dict.fromkeys(failures.values(), 1)
    assert results[4]["attempts"] == 3
    assert {result["model"] for result in results} == {"resnext50_32x4d/random"}
    chelsea = results[0]
    scores = [guess["score"] for guess in chelsea["top5"]]
    assert len(scores) == 5
    assert scores == sorted(scores, reverse=True)
    assert chelsea["top5"] != results[5]["top5"]


def test_killing_a_worker_in_mid_job_loses_and_repeats_nothing(installation, many, gate) -> None:
    job = installation.submit(*many)
    installation.start("dispatch")
    worker = installation.start("worker")
    installation.wait(job, begun)

    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    gate.set()
    installation.start("worker")

    status = installation.wait(job)
    assert (status["classified"], status["failed"]) == (len(many), 0)
    results = installation.results(job)
    assert [result["uri"] for result in results] == many
    assert len({str([guess["class_id"] for guess in r["top5"]]) for r in results}) == 4


@on_sqlite
def test_a_stopped_worker_hands_back_unclassified_images(installation, many, gate) -> None:
    job = installation.submit(*many)
    installation.start("dispatch")
    worker = installation.start("worker")
    installation.wait(job, begun)

    worker.send_signal(signal.SIGTERM)

    assert worker.wait(timeout=300) == 0
    assert installation.status(job)["pending"] >= 16
    gate.set()
    installation.start("worker")
    assert installation.wait(job)["classified"] == len(many)
    assert all(result["attempts"] == 1 for result in installation.results(job))


def test_flushing_redis_in_mid_job_loses_nothing(installation, many, gate, valkey) -> None:
    gate.set()
    # One chunk runs at once, so that most chunks wait in Redis.
    installation.environment["RESNEXT_CHUNKS_IN_FLIGHT"] = "1"
    job = installation.submit(*many)
    installation.start("dispatch")
    installation.start("worker")
    installation.wait(job, begun)

    with valkey.client() as client:
        assert client.llen("resnext50_32x4d.random.fp32") > 0
        client.flushall()

    assert installation.wait(job)["classified"] == len(many)
    assert len(installation.results(job)) == len(many)


@on_sqlite
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("gone.pth", None, "does not exist"),
        ("other.pth", {"fc.weight": (2, 2)}, "fc.weight"),
    ],
)
def test_missing_or_wrong_weights_stop_the_worker(
    installation, tmp_path, name, content, words
) -> None:
    import torch

    if content:
        torch.save({key: torch.zeros(shape) for key, shape in content.items()}, tmp_path / name)
    installation.environment["RESNEXT_WEIGHTS"] = str(tmp_path / name)

    done = installation.call("worker")

    assert done.returncode == 3
    assert name in done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@on_sqlite
@pytest.mark.parametrize("command", ["dispatch", "worker", "flower"])
def test_the_error_for_an_unreachable_redis_names_its_address(installation, command) -> None:
    installation.environment |= {
        "RESNEXT_BROKER_URL": "redis://:hunter2@127.0.0.1:9/0",
        "RESNEXT_FLOWER_LOGIN": "me:secret",
    }
    done = installation.call(command)
    assert done.returncode == 3
    assert "127.0.0.1:9" in done.stderr
    assert "hunter2" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["dispatch", "worker"])
def test_the_error_for_an_unreachable_database_names_its_address(installation, command) -> None:
    installation.environment["RESNEXT_DATABASE_URL"] = "postgresql://me:hunter2@127.0.0.1:9/no"
    done = installation.call(command)
    assert done.returncode == 3
    assert "127.0.0.1:9/no" in done.stderr
    assert "hunter2" not in done.stderr
    assert "Traceback" not in done.stderr


@on_sqlite
def test_the_dashboard_needs_a_login(installation) -> None:
    done = installation.call("flower")
    assert done.returncode == 2
    assert "RESNEXT_FLOWER_LOGIN" in done.stderr
