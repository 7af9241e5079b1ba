"""Measures `resnextq submit` by list format: URIs per second of CPU time, and peak memory.

    python -m benchmarks.stage.sources [--images N] [--formats csv csv.gz ...] [--unique]

Writes a list of N URIs with an id and a caption in each format, and submits each with the real
command to a new SQLite database. Prints URIs per second of CPU time (user and system of all
threads: the rate of one core) and the process's peak memory (RSS), with their marks. The cost of
the command with a list of one URI is subtracted from the time, but not from the memory.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.rig.figures import tell
from benchmarks.rig.machine import machine
from producer.submit.sources.opening import zstd

RESNEXTQ = Path(sys.executable).with_name("resnextq")
TEXT_MARK, PARQUET_MARK = 250_000, 400_000
TEXT_MARK_MB, PARQUET_MARK_MB = 120, 250
IMAGES_A_HOST = 10_000
ROWS_A_WRITE = 50_000

LAST = '{"id": null, "url": "https://example.org/last.jpg"}'

Row = tuple[int, str, str]


@dataclass(frozen=True)
class Cost:
    cpu_s: float
    peak_mb: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--formats", nargs="*", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--unique", action="store_true", help="submit with --unique")
    parser.add_argument("--ids", action="store_true", help="submit with --id-column id")
    parser.add_argument(
        "--write", type=Path, help="only write a list in the first format to this file"
    )
    chosen = parser.parse_args()
    if chosen.write is not None:
        write(chosen.write, chosen.formats[0], chosen.images)
        return
    title = f"submit of {chosen.images:,} images to SQLite"
    columns = ("list", "MB", "CPU s", "URIs/s per core", "mark", "peak MB", "mark")
    table = Table(*columns, title=title)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        options = ["--unique"] if chosen.unique else []
        for layout in chosen.formats:
            with_ids = ["--id-column", "id"] if chosen.ids and layout != "txt" else []
            row = measured(folder, layout, chosen.images, options + with_ids)
            tell(" · ".join(row))
            table.add_row(*row)
    print(machine())
    Console(width=110).print(table)


def measured(folder: Path, layout: str, images: int, options: list[str]) -> tuple[str, ...]:
    least, few = (written(folder / f"{n}.{layout}", layout, n) for n in (1, images))
    cpu_s = -submit(folder, least, options).cpu_s
    cost = submit(folder, few, options)
    cpu_s += cost.cpu_s
    rate = images / cpu_s
    is_parquet = layout == "parquet"
    mark = PARQUET_MARK if is_parquet else TEXT_MARK
    mark_mb = PARQUET_MARK_MB if is_parquet else TEXT_MARK_MB
    size_mb = few.stat().st_size / 1e6
    few.unlink()
    return (
        layout,
        f"{size_mb:,.0f}",
        f"{cpu_s:.1f}",
        f"{rate:,.0f}",
        f"{mark:,} {'met' if rate >= mark else 'MISSED'}",
        f"{cost.peak_mb:.0f}",
        f"{mark_mb} {'met' if cost.peak_mb <= mark_mb else 'MISSED'}",
    )


def submit(folder: Path, listed: Path, options: list[str]) -> Cost:
    """Runs the real command, on a new database."""
    database = folder / "resnext.db"
    environment = os.environ | {
        "RESNEXT_HOME": str(folder),
        "RESNEXT_DATABASE_URL": f"sqlite:///{database}",
    }
    quiet = {"env": environment, "stdout": subprocess.DEVNULL}
    subprocess.run([RESNEXTQ, "db", "upgrade"], check=True, **quiet)
    process = subprocess.Popen(
        [RESNEXTQ, "submit", str(listed), *options], stderr=subprocess.PIPE, **quiet
    )
    with process.stderr as told:
        said = told.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"submit of {listed.name} ended with {said.decode()}")
    for path in folder.glob("resnext.db*"):
        path.unlink()
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000)


def rows_of(images: int) -> Iterator[Row]:
    """Rows like a crawl's: sorted by host, the rest without a pattern; URIs of 72 bytes."""
    seeded = random.Random(1)
    for number in range(images):
        digits = seeded.randbytes(16).hex()
        host = f"images.site-{number // IMAGES_A_HOST:06d}.example"
        yield number, f"https://{host}/{digits[:2]}/{digits[2:]}.jpg", "A cat, on a mat"


def written(path: Path, layout: str, images: int) -> Path:
    """Writes the list in another process, because a submit would inherit this one's peak memory."""
    program = [sys.executable, "-m", "benchmarks.stage.sources", "--write", str(path)]
    subprocess.run([*program, "--formats", layout, "--images", str(images)], check=True)
    return path


def write(path: Path, layout: str, images: int) -> Path:
    kind, _, packed = layout.partition(".")
    plain = path.with_name(f"{images}.{kind}") if packed else path
    WRITERS[kind](plain, rows_of(images))
    if packed:
        opened = gzip.open if packed == "gz" else zstd.open
        with plain.open("rb") as source, opened(path, "wb") as target:
            shutil.copyfileobj(source, target, 2**20)
        plain.unlink()
    return path


def lines(heading: str, ending: str, line: Callable[[Row], str]) -> Callable[..., None]:
    def write_lines(path: Path, rows: Iterator[Row]) -> None:
        with path.open("w") as file:
            file.write(heading)
            file.writelines(map(line, rows))
            file.write(ending)

    return write_lines


def record(row: Row) -> str:
    return json.dumps({"id": row[0], "url": row[1], "caption": row[2]})


def write_parquet(path: Path, rows: Iterator[Row]) -> None:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    types = {"id": pa.int64(), "url": pa.string(), "caption": pa.string()}
    schema = pa.schema(types)
    with ParquetWriter(path, schema) as writer:
        while some := list(islice(rows, ROWS_A_WRITE)):
            columns = dict(zip(types, zip(*some, strict=True), strict=True))
            writer.write_table(pa.table(columns, schema=schema), row_group_size=1_000_000)


WRITERS: dict[str, Callable[..., None]] = {
    "txt": lines("", "", lambda row: f"{row[1]}\n"),
    "csv": lines("id,url,caption\n", "", lambda row: f'{row[0]},{row[1]},"{row[2]}"\n'),
    "tsv": lines("id\turl\tcaption\n", "", lambda row: "\t".join(map(str, row)) + "\n"),
    "jsonl": lines("", "", lambda row: record(row) + "\n"),
    "json": lines(
        "[", '{"id": null, "url": "https://example.org/last.jpg"}]', lambda row: record(row) + ",\n"
    ),
    "parquet": write_parquet,
}
PACKED = (*(f"{kind}.gz" for kind in ("txt", "csv", "tsv", "jsonl", "json")),
          *(f"{kind}.zst" for kind in ("txt", "csv", "tsv", "jsonl", "json")))  # fmt: skip
FORMATS = (*WRITERS, *PACKED)


if __name__ == "__main__":
    main()
