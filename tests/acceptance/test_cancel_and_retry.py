"""Jobs that a user cancels, retries, or submits with a time limit."""

from __future__ import annotations

import json

import pytest

# tests/integration/jobs tests both databases, without loading a network.
pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def test_a_cancelled_job_is_retried_and_runs_its_remaining_images(installation, web, gate) -> None:
    # One chunk runs at once, and all of its images but the first are held: most images are left.
    installation.environment |= {"RESNEXT_CHUNKS_IN_FLIGHT": "1", "RESNEXT_CHUNK_PATIENCE_S": "2"}
    many = [f"{web}/chelsea.jpg?{'held' if n % 8 else 'n'}={n}" for n in range(64)]
    job = installation.submit(*many)
    installation.start("dispatch")
    installation.start("worker")
    installation.wait(job, lambda status: status["classified"] > 0)

    done = installation.call("cancel", job)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert f"job {job} is cancelled" in done.stderr
    assert installation.status(job)["state"] == "cancelled"
    gate.set()

    status = installation.wait(job, lambda status: status["finished_at"] is not None)
    results = installation.results(job)
    left = [r["uri"] for r in results if r.get("error", {}).get("code") == "cancelled"]
    assert (status["state"], status["errors"]) == ("cancelled", {"cancelled": len(left)})
    assert [result["uri"] for result in results] == many
    assert (status["classified"], status["pending"]) == (len(many) - len(left), 0)
    assert 8 <= len(left) < len(many)
    assert installation.call("status", job, "--fail-on-error").returncode == 1
    assert installation.call("cancel", job).returncode == 0

    assert installation.run("retry", job, "--error", "cancelled") == f"{len(left)}\n"
    status = installation.wait(job)
    assert (status["classified"], status["failed"], status["errors"]) == (len(many), 0, {})
    assert [result["uri"] for result in installation.results(job)] == many
    status = installation.wait(job, lambda status: status["finished_at"] is not None)
    assert status["state"] == "completed"

    refused = installation.call("cancel", job)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == (
        f"resnextq: Job {job} is completed: there is nothing left to cancel.\n"
    )
    again = installation.call("retry", job)
    assert (again.returncode, again.stdout) == (0, "0\n")
    assert again.stderr == "resnextq: no image has failed\n"


def test_a_job_expires_at_its_time_limit(installation) -> None:
    """`--wait` ends as well, although no worker runs."""
    installation.start("dispatch")
    uris = [f"http://a.example/{n}.jpg" for n in range(20)]
    done = installation.call("submit", *uris, "--expires", "1s", "--wait", "--fail-on-error")
    assert done.returncode == 1, done.stderr
    job = done.stdout.strip()
    status = installation.status(job)
    assert (status["state"], status["errors"]) == ("expired", {"expired": 20})
    assert status["expires_at"] < status["finished_at"]
    assert [result["uri"] for result in installation.results(job)] == uris
    (listed,) = json.loads(installation.run("list", "--json"))
    assert listed == status
    assert "expired" in installation.run("status", job)
