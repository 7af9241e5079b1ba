"""Runs the main job on photographs: exactly one row per image, the same answers on both databases.

    python -m benchmarks.system.main_job PHOTOGRAPHS.tar [--kill] [--precision fp32]

Serves the photographs over loopback HTTP and runs the real commands (`dispatch`, `worker`,
`submit`, `results`) on SQLite and on PostgreSQL. Prints, for each database, the rows, the
classified images and images/s; then how far the answers differ. With `--kill` the worker
is killed (SIGKILL, its whole process group) in the middle of each job and started again.
The exit status is 1 if a row is missing, doubled or failed, or if the answers differ.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.rig.installation import Installation, installed

POLL_S = 0.2
# How much the fp32 scores of one picture may differ between batches with other pictures.
TOLERANCE = 1e-4


class _Quiet(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


class Job:
    """One run of the job in one installation."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation

    def run(self, uris: list[str], *, kill: bool) -> tuple[list[dict[str, Any]], float]:
        """Returns the results, and the seconds from the first classified image to the last."""
        job = self.installation.submit(uris)
        self.installation.start("dispatch")
        worker = self.installation.start("worker")
        began = self._wait(job, at_least=1)
        if kill:
            self._wait(job, at_least=len(uris) // 2)
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
            print(f"killed with {self._settled(job)} of {len(uris)} images finished")
            self.installation.start("worker")
        ended = self._wait(job, at_least=len(uris))
        lines = self.installation.command("results", job).splitlines()
        return [json.loads(line) for line in lines], ended - began

    def _wait(self, job: str, *, at_least: int) -> float:
        while self._settled(job) < at_least:
            time.sleep(POLL_S)
        return time.monotonic()

    def _settled(self, job: str) -> int:
        status = json.loads(self.installation.command("status", job, "--json"))
        return int(status["classified"] + status["failed"])


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("photographs", type=Path, help="a tar file of photographs")
    arguments.add_argument("--kill", action="store_true", help="kill the worker in mid-job")
    arguments.add_argument("--precision", choices=("amp", "fp32"), default="fp32")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        folder = Path(scratch)
        folder.chmod(0o755)  # PostgreSQL runs as another user if we are root
        with tarfile.open(chosen.photographs) as archive:
            archive.extractall(folder / "web", filter="data")
        web = stack.enter_context(serving(folder / "web"))
        names = sorted(p.relative_to(folder / "web") for p in (folder / "web").rglob("*.*"))
        uris = [f"{web}/{name}" for name in names if (folder / "web" / name).is_file()]
        answers = {}
        table = Table("database", "rows", "classified", "attempts > 1", "images/s")
        wanted = {"RESNEXT_WEIGHTS": "random", "RESNEXT_PRECISION": chosen.precision}
        if chosen.kill:  # so small that it never holds all of them at once
            wanted |= {"RESNEXT_CHUNK_IMAGES": "8", "RESNEXT_CHUNKS_IN_FLIGHT": "4"}
        for name in ("SQLite", "PostgreSQL"):
            database = name.lower()
            answers[name], seconds = run_on(folder / name, database, uris, wanted, kill=chosen.kill)
            table.add_row(name, *counts(answers[name]), f"{len(uris) / seconds:.1f}")
        Console().print(table)
        return verdict(answers, len(uris))


def run_on(
    folder: Path, database: str, uris: list[str], wanted: dict[str, str], *, kill: bool = False
) -> tuple[list[dict[str, Any]], float]:
    """Runs the job in a whole installation with these settings; returns results and seconds."""
    with installed(folder, {"RESNEXT_LEASE_S": "5", **wanted}, database=database) as installation:
        return Job(installation).run(uris, kill=kill)


def counts(results: list[dict[str, Any]]) -> tuple[str, str, str]:
    classified = sum(result["status"] == "classified" for result in results)
    again = sum(result["attempts"] > 1 for result in results)
    return str(len(results)), str(classified), str(again)


def verdict(answers: dict[str, list[dict[str, Any]]], images: int) -> int:
    faults = [
        f"{name}: position {position} has {result.get('error', 'another position')}"
        for name, results in answers.items()
        for position, result in enumerate(results)
        if result["position"] != position or result["status"] != "classified"
    ] + [f"{name}: {len(r)} rows of {images}" for name, r in answers.items() if len(r) != images]
    if not faults:
        worst = max(
            difference(a["top5"], b["top5"]) for a, b in zip(*answers.values(), strict=True)
        )
        print(f"largest difference of a score between the databases: {worst:.1e}")
        if worst > TOLERANCE:
            faults = [f"scores differ by {worst:.1e}, more than {TOLERANCE}"]
    print("\n".join(faults) or f"every one of {images} images has exactly one row on each database")
    return 1 if faults else 0


def difference(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> float:
    """The largest difference of scores, rank by rank; infinite if classes differ without a tie."""
    worst = 0.0
    for one, other in zip(a, b, strict=True):
        apart = abs(one["score"] - other["score"])
        worst = max(worst, apart)
        if one["class_id"] != other["class_id"] and apart > TOLERANCE:
            return float("inf")
    return worst


if __name__ == "__main__":
    sys.exit(main())
