"""Measures how close the worker comes to a device that never waits for images. One figure per row.

    make bench-pipeline PHOTOGRAPHS=photos.tar
    python benchmarks/pipeline.py [photos.tar] [--row NAME ...] [--rounds 5] [--database sqlite]

Each row runs a whole installation (Valkey, PostgreSQL, dispatcher, workers with their loaders)
against the web server in benchmarks/rig/web.py on this machine, beside its peer if it has one. It
prints a table with median, spread and mark. `RESNEXT_` variables in the environment override a
row's settings, so that you can try settings. `--scale 0.1` takes a tenth of the images and of the
time: for a quick try, because such figures mean nothing.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])  # so that `benchmarks` can be imported

from rich.console import Console

from benchmarks.rig.figures import tell
from benchmarks.rig.machine import machine
from benchmarks.rows import hostile, loading, steady, tls, whole_path
from benchmarks.rows.row import Conditions, Row

ROWS = {
    "classifier": Row("whole path, and the classifier alone", 1.4, whole_path.beside_classifier),
    "busy": Row("a simulated device's busy share", 0.7, steady.busy_share),
    "cpu": Row("CPU of the main process, by part", 0.7, steady.main_process_cpu),
    "seed": Row("whole path, and a plain loop", 0.7, whole_path.beside_seed),
    "tasks": Row("whole path, and one task per image", 0.9, whole_path.beside_task_an_image),
    "loading": Row("fetch, decode and crop, and img2dataset", 2.6, loading.beside_img2dataset),
    "tls": Row("new HTTPS connections", 0.1, tls.new_connections),
    "hangs": Row("URIs that hang", 3.9, steady.hanging),
    "hostile": Row("URIs that fail at once", 0.5, hostile.quick_traps),
    "slow": Row("URIs that are slow to fail", 1.2, hostile.slow_traps),
    "memory": Row("memory of the whole worker", 0.6, steady.memory),
    "workers": Row("two and eight workers", 1.5, steady.more_workers),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "photographs", nargs="?", type=Path, help="tar file; default: made pictures"
    )
    parser.add_argument("--row", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--database", choices=("postgresql", "sqlite"), default="postgresql")
    parser.add_argument("--scale", type=float, default=1.0, help="below 1: for a quick try")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # this also stops everything
    print(f"{machine()}; {chosen.database}, {chosen.rounds} rounds")
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch).chmod(0o755)  # PostgreSQL runs as another user if we are root
        conditions = Conditions(
            scratch=Path(scratch),
            photographs=chosen.photographs,
            rounds=chosen.rounds,
            database=chosen.database,
            scale=chosen.scale,
        )
        for name in chosen.row:
            row = ROWS[name]
            minutes = row.minutes_a_round * conditions.rounds * conditions.scale
            tell(f"{name}: {row.title}; about {minutes:.0f} minutes")
            Console(width=120).print(row.measure(conditions))


if __name__ == "__main__":
    main()
