"""A job through all processes: `submit`, `dispatch`, `worker`, `status`, `results`."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

PHOTOGRAPHS = ("chelsea.jpg", "coffee.jpg", "astronaut.jpg", "rocket.jpg")


def uris(web: str, images: int) -> str:
    """Lines of a list, each another URI of one of a few photographs."""
    return "\n".join(f"{web}/{PHOTOGRAPHS[n % len(PHOTOGRAPHS)]}?n={n}" for n in range(images))


def submit(installation, text: str) -> str:
    return installation.run("submit", "-", stdin=text).strip()


def test_every_image_gets_its_classes_or_the_reason_why_not(installation, web, tmp_path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    (tmp_path / "words.jpg").write_text("These are words.")
    job = submit(
        installation,
        "\n".join(
            [
                f"{web}/chelsea.jpg",
                f"{web}/nothing-here.jpg",
                (tmp_path / "words.jpg").as_uri(),
                (tmp_path / "gone.jpg").as_uri(),
                "http://127.0.0.1:9/closed.jpg",
                f"{web}/coffee.jpg",
            ]
        ),
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
    chelsea = results[0]
    assert chelsea["model"] == "resnext101_32x4d/random"
    scores = [guess["score"] for guess in chelsea["top5"]]
    assert len(scores) == 5
    assert scores == sorted(scores, reverse=True)
    assert chelsea["top5"] != results[5]["top5"]


def test_a_worker_killed_in_mid_job_loses_nothing_and_doubles_nothing(installation, web) -> None:
    job = submit(installation, uris(web, 120))
    installation.start("dispatch")
    worker = installation.start("worker")
    while not 0 < installation.status(job)["classified"] < 120:
        assert worker.poll() is None, installation.tails()
        time.sleep(0.05)

    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    assert installation.status(job)["classified"] < 120, "killed too late to show anything"
    installation.start("worker")

    status = installation.wait(job)
    assert (status["classified"], status["failed"]) == (120, 0)
    results = installation.results(job)
    assert [result["position"] for result in results] == list(range(120))
    answers = {tuple(guess["class_id"] for guess in result["top5"]) for result in results}
    assert len(answers) == len(PHOTOGRAPHS)


def test_a_worker_that_is_stopped_hands_back_what_it_has_not_classified(installation, web) -> None:
    job = submit(installation, uris(web, 120))
    installation.start("dispatch")
    worker = installation.start("worker")
    while installation.status(job)["classified"] == 0:
        assert worker.poll() is None, installation.tails()
        time.sleep(0.05)

    worker.send_signal(signal.SIGTERM)

    assert worker.wait(timeout=60) == 0
    assert installation.status(job)["state"] == "running"
    installation.start("worker")
    assert installation.wait(job)["classified"] == 120
    assert all(result["attempts"] == 1 for result in installation.results(job))


def test_redis_flushed_in_mid_job_loses_nothing(installation, web, valkey) -> None:
    job = submit(installation, uris(web, 120))
    installation.start("dispatch")
    worker = installation.start("worker")
    while installation.status(job)["classified"] == 0:
        assert worker.poll() is None, installation.tails()
        time.sleep(0.05)

    with valkey.client() as client:
        client.flushall()

    assert installation.wait(job)["classified"] == 120
    assert len(installation.results(job)) == 120


def test_weights_that_are_missing_or_of_another_network_stop_the_worker(
    installation, tmp_path: Path
) -> None:
    import torch

    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    for weights, words in (("gone.pth", "gone.pth"), ("other.pth", "fc.weight")):
        installation.environment["RESNEXT_WEIGHTS"] = str(tmp_path / weights)
        worker = installation.start("worker")
        assert worker.wait(timeout=60) == 3
        log = installation.log("worker").read_text()
        assert words in log
        assert "Traceback" not in log


def test_redis_that_does_not_answer_stops_dispatcher_and_worker_with_its_address(
    installation,
) -> None:
    installation.environment["RESNEXT_BROKER_URL"] = "redis://:hunter2@127.0.0.1:9/0"
    for command in ("dispatch", "worker"):
        assert installation.start(command).wait(timeout=60) == 3
        log = installation.log(command).read_text()
        assert "127.0.0.1:9" in log
        assert "hunter2" not in log
        assert "Traceback" not in log
