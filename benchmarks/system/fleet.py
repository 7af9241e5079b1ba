"""A fleet of stub workers on a real broker and database: how much it does, and what it costs.

    python -m benchmarks.system.fleet --workers 1 4 --chunk 64 256 --seconds 20
    python -m benchmarks.system.fleet --watched
    python -m benchmarks.system.fleet --calibrate benchmarks/simulation/calibration.json

Dispatcher, broker, database, claims, stores, Celery and metrics are real. The workers have no
network and no network to compute (benchmarks/rig/netless_worker.py): a chunk's images are there
after `--loading` seconds, and a device does `--device` images/s. 0: neither takes time, and the
main process of each worker does what it can.

The first form runs every combination of workers, chunks, devices and jobs, and prints a row for
each: images/s and chunks/s, CPU by part, connections, bytes of Redis and of the log. The second one
runs 4 workers with everything that watches and without it, in turns. The third one measures what
the simulation needs (benchmarks/simulation) and what it is compared with.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.rig.figures import shown, spread, tell
from benchmarks.rig.fleet import PARTS, Case, Fleet, cores, fleet_in
from benchmarks.rig.installation import RANDOM_WEIGHTS, installed
from benchmarks.rig.machine import machine
from benchmarks.rig.watchers import SETTINGS, Watch, described, watching

DATABASES: Final = ("sqlite", "postgresql")
CONNECTIONS: Final = 400
"""Of PostgreSQL, whose default of 100 is too few for more than 9 workers."""
# A job has 2,500 thumbnails at most: few of a large job, and a part of the short ones here.
WANTED: Final = RANDOM_WEIGHTS | {"RESNEXT_BATCH_IMAGES": "256", "RESNEXT_THUMBNAILS": "0"}
NO_SETTINGS: Final[Mapping[str, str]] = MappingProxyType({})
FLAT_OUT_IMAGES_S: Final = 20_000
"""About what this machine does when devices take no time: it sizes the jobs."""
WARM_UP: Final = Case(workers=1, images=40_000, chunk=256)
WARM_UP_WATCHED_S: Final = 4
WATCHED_WORKERS, WATCHED_IMAGES, WATCHED_MARK = 4, 200_000, 0.99
FLUSHES: Final = 200
FLUSHED_BYTES: Final = 16_384

# (workers, images/s of a device, images a chunk). The simulation's constants come from the first
# ones alone, and it is compared with the others.
CALIBRATION: Final = (
    (1, 0, 256), (2, 0, 64), (2, 0, 256), (4, 250, 256), (16, 0, 64), (16, 0, 256),
)  # fmt: skip
COMPARISON: Final = (
    (1, 0, 64), (4, 0, 64), (4, 0, 128), (4, 0, 256), (8, 0, 256), (12, 0, 256),
    (1, 500, 256), (2, 1000, 256), (8, 500, 256), (16, 250, 256),
)  # fmt: skip


def main() -> int:
    chosen = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and everything is stopped
    for name in [name for name in os.environ if name.startswith("RESNEXT_")]:
        del os.environ[name]
    if chosen.watched:
        return watched(chosen)
    if chosen.calibrate:
        return calibrate(chosen)
    return sweep(chosen)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.system.fleet")
    several: dict[str, Any] = {"nargs": "+", "type": int}
    parser.add_argument("--workers", default=[1, 2, 4, 8, 16], **several)
    parser.add_argument("--chunk", default=[64, 256], help="images; 0: chunks grow", **several)
    parser.add_argument("--jobs", default=[1], help="that share the images", **several)
    parser.add_argument("--device", default=[0], help="images/s; 0: no time", **several)
    parser.add_argument("--loading", type=float, default=0.0, help="seconds for a chunk")
    parser.add_argument("--seconds", type=float, default=20.0, help="about, of each run")
    parser.add_argument("--images", type=int, help="of each run, in place of --seconds")
    parser.add_argument("--database", choices=DATABASES, action="append")
    parser.add_argument("--json", type=Path, help="file that gets each row as a line")
    parser.add_argument("--watched", action="store_true")
    parser.add_argument("--rounds", type=int, default=2, help="of --watched")
    parser.add_argument("--calibrate", type=Path, metavar="FILE")
    return parser.parse_args()


@contextmanager
def fleets(
    database: str, loading_s: float = 0.0, settings: Mapping[str, str] = NO_SETTINGS
) -> Iterator[Fleet]:
    """A fleet in an installation of its own, on this database."""
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch)
        folder.chmod(0o755)  # PostgreSQL runs as another user where we are root
        wanted = WANTED | dict(settings)
        installation = stack.enter_context(
            installed(folder / "fleet", wanted, database=database, connections=CONNECTIONS)
        )
        fleet = stack.enter_context(fleet_in(installation, loading_s))
        yield fleet


def images_for(workers: int, device_images_s: int, seconds: float, chunk: int = 256) -> int:
    """About as many as are done in this time."""
    rate = workers * device_images_s or FLAT_OUT_IMAGES_S / (1 if chunk > 64 else 2)
    return round(min(rate, FLAT_OUT_IMAGES_S) * seconds)


def sweep(chosen: argparse.Namespace) -> int:
    cases = itertools.product(chosen.device, sorted(chosen.workers), chosen.chunk, chosen.jobs)
    made = [
        Case(
            workers=workers,
            images=chosen.images or images_for(workers, device, chosen.seconds, chunk or 256),
            images_s=device,
            chunk=chunk or None,
            jobs=jobs,
        )
        for device, workers, chunk, jobs in cases
    ]
    for database in chosen.database or DATABASES:
        with fleets(database, chosen.loading) as fleet:
            fleet.complete(WARM_UP)
            rows = list(measured(fleet, made, chosen.json))
            show(f"{database}, {cores()} cores for all parts", rows, fleet.sizes())
    return 0


def measured(fleet: Fleet, cases: Sequence[Case], lines: Path | None) -> Iterator[dict[str, Any]]:
    for case in cases:
        row = fleet.run(case)
        tell(f"{case}: {row['images_s']:,.0f} images/s")
        if lines is not None:
            with lines.open("a") as file:
                print(json.dumps(row), file=file)
        yield row


def show(title: str, rows: Sequence[dict[str, Any]], sizes: dict[str, float]) -> None:
    table = Table(
        "workers", "device", "chunk", "jobs", "images/s", "chunks/s",
        *(f"{part}: µs an image" for part in PARTS),
        "other cores", "connections", "log B", "Redis in, out B", "Redis MB", title=title,
    )  # fmt: skip
    for row in rows:
        spent = (1e6 * row["cpu_s"][part] / row["images"] for part in PARTS)
        table.add_row(
            str(row["workers"]), str(row["device_images_s"]), str(row["chunk"] or "grows"),
            str(row["jobs"]), f"{row['images_s']:,.0f}", shown(row["chunks_s"]),
            *map(shown, spent), f"{row['other_cores']:.2f}", str(row["connections"]),
            shown(row["wal_bytes"]),
            f"{shown(row['redis_in_bytes'])}, {shown(row['redis_out_bytes'])}",
            shown(row["redis_bytes"] / 1e6),
        )  # fmt: skip
    print(machine())
    Console(width=160).print(table)
    print("bytes an image:", {name: round(size, 1) for name, size in sizes.items()})


def watched(chosen: argparse.Namespace) -> int:
    """Status 1 where the mark is missed."""
    images = chosen.images or WATCHED_IMAGES
    met = True
    for database in chosen.database or ("postgresql",):
        with fleets(database, settings=SETTINGS) as fleet:
            for device in chosen.device:
                case = Case(
                    workers=WATCHED_WORKERS, images=images, images_s=device, chunk=chosen.chunk[-1]
                )
                met &= beside_watchers(fleet, case, chosen.rounds, database)
    return 0 if met else 1


def beside_watchers(fleet: Fleet, case: Case, rounds: int, database: str) -> bool:
    fleet.complete(
        replace(case, images=WARM_UP_WATCHED_S * round(case.images_s or FLAT_OUT_IMAGES_S))
    )
    rates: dict[str, list[float]] = {"alone": [], "watched": []}
    busy: dict[str, list[float]] = {"alone": [], "watched": []}
    watches: list[Watch] = []

    def run(name: str) -> None:
        row = fleet.run(case)
        rates[name].append(row["images_s"])
        busy[name].append(sum(row["cpu_s"].values()) / row["seconds"] + row["other_cores"])
        tell(f"{name}: {row['images_s']:,.1f} images/s")

    for n in range(rounds):
        for name in ("alone", "watched") if n % 2 == 0 else ("watched", "alone"):
            if name == "alone":
                run(name)
                continue
            with watching(fleet) as watch:
                run(name)
            watches.append(watch)
    ratios = [b / a for a, b in zip(rates["alone"], rates["watched"], strict=True)]
    ratio = statistics.median(ratios)
    print(machine())
    print(
        f"{database}, {case.workers} workers, {case.images:,} images a run, chunks of {case.chunk},"
        f" device {case.images_s or 'takes no time'}, {rounds} rounds"
    )
    for name, values in rates.items():
        print(
            f"  {name:<8} {statistics.median(values):>9,.1f} images/s ({spread(values)}), "
            f"{statistics.median(busy[name]):.2f} of {cores()} cores busy"
        )
    verdict = "met" if ratio >= WATCHED_MARK else "MISSED"
    print(f"  ratio {ratio:.4f} ({min(ratios):.4f} to {max(ratios):.4f}); mark 0.99: {verdict}")
    print(f"  {described(watches)}")
    return ratio >= WATCHED_MARK


def calibrate(chosen: argparse.Namespace) -> int:
    """Writes the file that benchmarks/simulation reads."""
    found: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine(),
        "cores": cores(),
        "rows": [],
    }
    with fleets("postgresql") as fleet:
        found["flush_s"] = flush_s(fleet.installation.folder)
        fleet.complete(WARM_UP)
        purposes = dict.fromkeys(CALIBRATION, "calibration") | dict.fromkeys(
            COMPARISON, "comparison"
        )
        # One rate after another, and more and more workers: so few workers are started.
        for workers, device, chunk in sorted(purposes, key=lambda case: (case[1], case)):
            images = images_for(workers, device, chosen.seconds, chunk)
            case = Case(workers=workers, images=images, images_s=device, chunk=chunk)
            (row,) = measured(fleet, [case], None)
            found["rows"].append({"for": purposes[workers, device, chunk]} | row)
            found["sizes"] = fleet.sizes()
            save(chosen.calibrate, found)
        show("PostgreSQL", found["rows"], found["sizes"])
    return 0


def save(path: Path, found: dict[str, Any]) -> None:
    path.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


def flush_s(folder: Path) -> float:
    """What it takes this disk to keep what the database's log has written, in the median."""
    path, taken = folder / "flushed", []
    with path.open("wb", buffering=0) as file:
        for _ in range(FLUSHES):
            file.write(os.urandom(FLUSHED_BYTES))
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - began)
    path.unlink()
    return statistics.median(taken)


if __name__ == "__main__":
    sys.exit(main())
