"""The tables of docs/scaling.md, in Markdown: measured, simulated, and reckoned from both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from benchmarks.rig.fleet import PARTS
from benchmarks.simulation.calibration import rows_for
from benchmarks.simulation.model import Costs, Found, Plan, simulate
from worker.process.database import OTHER_CONNECTIONS, TASK_CONNECTIONS

WORKERS: Final = (1, 4, 16, 64, 256)
DEVICES_IMAGES_S: Final = (500, 2_500)
CONNECTIONS: Final = TASK_CONNECTIONS + OTHER_CONNECTIONS
BUSY: Final = 0.95
"""Of its time: such a part is what limits the rest."""
DATABASE_CORES: Final = 8
IMAGES: Final = (10**6, 10**8, 10**9)
BILLION: Final = 10**9
A_DAY_S: Final = 86_400
# Chunks as they may be, and as they could be if the program permitted it.
CHUNKS: Final = (64, 256, 1024)
SHOWN: Final = {
    "workers": "worker, main process",
    "dispatcher": "dispatcher",
    "database": "PostgreSQL for workers",
    "dispatching": "PostgreSQL for the dispatcher",
    "broker": "Redis",
}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def runs(measured: dict[str, Any]) -> str:
    """What was measured, all runs."""
    head = (
        "workers", "device, images/s", "chunk", "jobs", "images/s", "chunks/s",
        *(f"{SHOWN[part]}, µs" for part in PARTS), "connections", "log, B", "Redis in and out, B",
        "Redis, MB",
    )  # fmt: skip
    return table(head, map(_run, measured["rows"]))


def _run(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        str(row["workers"]), _device(row), str(row["chunk"]), str(row["jobs"]),
        f"{row['images_s']:,.0f}", f"{row['chunks_s']:.0f}",
        *(f"{1e6 * row['cpu_s'][part] / row['images']:.1f}" for part in PARTS),
        str(row["connections"]), f"{row['wal_bytes']:.0f}",
        f"{row['redis_in_bytes']:.0f} and {row['redis_out_bytes']:.0f}",
        f"{row['redis_bytes'] / 1e6:.1f}",
    )  # fmt: skip


def _device(row: dict[str, Any]) -> str:
    return f"{row['device_images_s']:,}" if row["device_images_s"] else "no time"


def agreement(measured: dict[str, Any], costs: Costs) -> str:
    """Real runs beside simulated ones, of the sizes that gave no constant."""
    head = ("workers", "device, images/s", "chunk", "jobs", "measured", "simulated", "difference")
    return table(head, map(list, _compared(measured, costs)))


def _compared(measured: dict[str, Any], costs: Costs) -> Iterator[tuple[str, ...]]:
    for row in rows_for(measured, "comparison"):
        found = simulate(as_measured(row, measured["cores"]), costs_alone(costs))
        yield (
            str(row["workers"]), _device(row), str(row["chunk"]), str(row["jobs"]),
            f"{row['images_s']:,.0f}", f"{found.images_s:,.0f}",
            f"{difference(row, found):+.1%}",
        )  # fmt: skip


def difference(row: dict[str, Any], found: Found) -> float:
    """Of the simulation from what was measured, as a part of this."""
    return float(found.images_s / row["images_s"] - 1)


def as_measured(row: dict[str, Any], cores: int) -> Plan:
    """The plan of a run of benchmarks/system/fleet.py: everything on one machine."""
    return Plan(
        workers=row["workers"],
        device_images_s=row["device_images_s"],
        chunk_images=row["chunk"],
        shared_cores=cores,
        round_trip_s=0.0,
    )


def costs_alone(costs: Costs) -> Costs:
    """Without web and loaders, which the stub workers have not."""
    return replace(costs, image_loading_s=0.0, image_bytes=0.0)


def costs_table(costs: Costs) -> str:
    head = (
        "part",
        "µs a chunk",
        "µs an image",
        "µs an image in chunks of 256",
        "idle, ms a second",
    )
    rows = []
    for part in PARTS:
        cost = getattr(costs, part)
        rows.append(
            (
                SHOWN[part], f"{1e6 * cost.chunk:,.0f}", f"{1e6 * cost.image:.1f}",
                f"{1e6 * (cost.image + cost.chunk / 256):.1f}", f"{1e3 * cost.second:.1f}",
            )
        )  # fmt: skip
    return table(head, rows)


def fleets(costs: Costs, measured: dict[str, Any], workers: Sequence[int] = WORKERS) -> str:
    """What a fleet does, and what is busiest."""
    head = (
        "GPU, images/s", "workers", "images/s", "of the GPUs", "first to saturate", "dispatcher",
        "PostgreSQL, cores", "Redis", "connections", "web, Gbit/s", "log, MB/s",
        "10⁹ images take",
    )  # fmt: skip
    return table(
        head,
        [
            fleet_row(costs, measured, device, number)
            for device in DEVICES_IMAGES_S
            for number in workers
        ],
    )


def fleet_plan(workers: int, device_images_s: float) -> Plan:
    return Plan(
        workers=workers,
        device_images_s=device_images_s,
        database_cores=DATABASE_CORES,
        loader_cores=16 if device_images_s > 1_000 else 4,
    )


def fleet_row(
    costs: Costs, measured: dict[str, Any], device_images_s: int, workers: int
) -> tuple[str, ...]:
    found = simulate(fleet_plan(workers, device_images_s), costs)
    wal = log_bytes(measured, 256)
    return (
        f"{device_images_s:,}", str(workers), f"{found.images_s:,.0f}",
        f"{found.images_s / (workers * device_images_s):.0%}", first_of(found),
        f"{found.busy['dispatcher']:.0%}", f"{found.busy['database'] * DATABASE_CORES:.1f}",
        f"{found.busy['Redis']:.0%}", f"{workers * CONNECTIONS:,}",
        f"{found.images_s * costs.image_bytes * 8 / 1e9:.1f}",
        f"{found.images_s * wal / 1e6:.0f}", lasting(BILLION / found.images_s),
    )  # fmt: skip


def first_of(found: Found) -> str:
    """The part without room; the devices, where they are what has none."""
    if found.busy["device"] >= BUSY:
        return "the GPUs"
    return f"{found.busiest} ({found.busy[found.busiest]:.0%})"


def changes(costs: Costs) -> str:
    """What helps the largest fleet."""
    base = fleet_plan(256, 2_500)
    plans = {
        "as above": base,
        "chunks of 64 (`RESNEXT_CHUNK_IMAGES=64`)": replace(
            base, chunk_images=64, set_chunk_images=64
        ),
        "chunks of 1,024 (not possible yet)": replace(base, chunk_images=1024),
        "a window of 4 s (`RESNEXT_WINDOW_S=4`)": replace(base, window_s=4.0),
        "PostgreSQL with 32 cores": replace(base, database_cores=32),
        "two installations with 128 workers each": replace(base, workers=128),
        "four installations with 64 workers each": replace(base, workers=64),
    }
    rows = []
    for what, plan in plans.items():
        found = simulate(plan, costs)
        times = base.workers // plan.workers
        rows.append(
            (
                what, f"{times * found.images_s:,.0f}",
                f"{found.images_s / (plan.workers * plan.device_images_s):.0%}", first_of(found),
            )
        )  # fmt: skip
    return table(("256 workers of 2,500 images/s", "images/s", "of the GPUs", "busiest"), rows)


def disk(measured: dict[str, Any]) -> str:
    sizes, wal = measured["sizes"], log_bytes(measured, 256)
    rows = [
        (what, f"{size:.0f} B", *(gigabytes(size * images) for images in IMAGES))
        for what, size in {
            "rows of `results`": sizes["table"],
            "indexes of `results`": sizes["indexes"],
            "chunks, their URIs": sizes["chunks"],
            "the whole database": sizes["database"],
            "log written meanwhile (WAL), not kept": wal,
        }.items()
    ]
    return table(("", "an image", "10⁶ images", "10⁸", "10⁹"), rows)


def log_bytes(measured: dict[str, Any], chunk: int) -> float:
    """Of the database's log, an image: the median of the runs with this chunk size."""
    found = sorted(row["wal_bytes"] for row in measured["rows"] if row["chunk"] == chunk)
    return float(found[len(found) // 2])


def gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size < 1e11 else f"{size / 1e9:,.0f} GB"


def lasting(seconds: float) -> str:
    if seconds < A_DAY_S:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / A_DAY_S:,.1f} days"


def all_tables(measured: dict[str, Any], costs: Costs) -> dict[str, str]:
    return {
        "costs": costs_table(costs),
        "runs": runs(measured),
        "agreement": agreement(measured, costs),
        "fleets": fleets(costs, measured),
        "changes": changes(costs),
        "disk": disk(measured),
    }
