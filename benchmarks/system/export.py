"""Measures an export by format and database: rows per second of one core, and memory.

    python -m benchmarks.system.export [--rows N] [--databases sqlite postgresql] [--resume]

For each line, a new process exports a job of a million images, of which one in twenty has failed,
to a file. CPU time counts from the moment when the process has found the job; memory is the peak of
its whole life. Neither includes the database server's. "present" is the previous implementation: a
record for each row with SQLAlchemy and `json.dumps`. `--resume` also exports to a folder with
`resnextq results`, kills it half-way (SIGKILL), resumes it, and compares all bytes with an export
that was not killed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine, select, text

from benchmarks.system.sql import analyze, fill
from contract.database.engine import make_engine, reading
from contract.database.tables import results
from migrations.upgrade import upgrade
from producer.jobs.export.folder import RECORD

RESNEXTQ: Final = Path(sys.executable).with_name("resnextq")
ROWS: Final = 1_000_000
FORMATS: Final = ("present", "jsonl", "csv", "parquet")
# Scores like a classifier's: far apart, with all digits of a float32. One job has all rows.
ONE_JOB: Final = {
    "postgresql": "random()::real",
    "sqlite": "(abs(random()) % 16777216) / 16777216.0",
}


def make_rows(engine: Engine, rows: int) -> None:
    fill(engine, rows)
    score = ONE_JOB[engine.dialect.name]
    scores = ", ".join(
        f"score_{rank} = CASE WHEN class_1 IS NOT NULL THEN {score} / {10 ** (rank - 1)} END"
        for rank in range(1, 6)
    )
    with engine.begin() as connection:
        connection.execute(
            text(f"UPDATE results SET job_number = 1, orientation = 'ignore', {scores}")
        )
        connection.execute(text(f"UPDATE jobs SET total = {rows} WHERE number = 1"))
    analyze(engine)


def export(url: str, form: str, output: str) -> None:
    """Exports in a separate process, which prints its cost."""
    from contract.settings import Settings
    from producer.jobs.export.export import Export
    from producer.jobs.export.sinks import target_of
    from producer.jobs.job import find_job

    engine = make_engine(url)
    with reading(engine) as connection:
        job = find_job(connection, "JOB")
    began, cpu_before = time.perf_counter(), time.process_time()
    if form == "present":
        rows = present(engine, job, output)
    else:
        rows = Export(engine=engine, job=job, form=form).write(target_of(output, Settings())).rows
    usage = resource.getrusage(resource.RUSAGE_SELF)
    figures = {
        "rows": rows,
        "cpu_s": time.process_time() - cpu_before,
        "wall_s": time.perf_counter() - began,
        "rss_mb": usage.ru_maxrss / 1024,
    }
    print(json.dumps(figures))


def present(engine: Engine, job: Any, output: str) -> int:
    """Does what `results --output FILE` did before: a record and a line for each SQLAlchemy row."""
    from contract.record import classified, failed, make_record
    from producer.jobs.export.rows import Vocabulary

    vocabulary = Vocabulary(engine, job)
    count = 0
    with Path(output).open("w") as file:
        for start in range(0, job.total, 5_000):
            statement = (
                select(results)
                .where(
                    results.c.job_number == job.number,
                    results.c.position >= start,
                    results.c.position < start + 5_000,
                )
                .order_by(results.c.position)
            )
            with reading(engine) as connection:
                rows = connection.execute(statement).all()
            for row in rows:
                values = dict(row._mapping)
                guesses = [
                    (
                        vocabulary.labels(row.model_number).get(values[f"class_{rank}"]),
                        values[f"class_{rank}"],
                        values[f"score_{rank}"],
                    )
                    for rank in range(1, 6)
                    if values[f"class_{rank}"] is not None
                ]
                answer = (
                    failed(row.error_code, row.error_detail or "")
                    if row.error_code
                    else classified_before(guesses, classified)
                )
                record = make_record(
                    position=row.position, uri=row.uri, ref=row.ref, answer=answer,
                    model=vocabulary.title(row.model_number), attempts=row.attempts, known=values,
                )  # fmt: skip
                file.write(json.dumps(record) + "\n")
                count += 1
    return count


def classified_before(guesses: list[Any], classified: Any) -> dict[str, Any]:
    """Converts scores one by one, as text."""
    answer: dict[str, Any] = classified([])
    answer["top5"] = [
        {"label": label, "class_id": class_id, "score": shortest_before(score)}
        for label, class_id, score in guesses
    ]
    return answer


def shortest_before(score: float) -> float:
    stored = struct.pack("f", score)
    for digits in (7, 8):
        short = float(f"{score:.{digits}g}")
        if struct.pack("f", short) == stored:
            return short
    return float(f"{score:.9g}")


def in_a_process(url: str, form: str, output: Path | str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.system.export", "--child", url, form, str(output)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


def by_the_command(url: str, form: str, folder: Path) -> subprocess.Popen[str]:
    command = [RESNEXTQ, "results", "JOB", "--format", form, "--output", f"{folder}/"]
    environment = os.environ | {"RESNEXT_DATABASE_URL": url.replace("+psycopg", "")}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def killed_and_resumed(url: str, form: str, scratch: Path, rows: int) -> str:
    """Compares an export that was killed half-way and resumed with one that was not killed."""
    whole, resumed = scratch / f"whole-{form}", scratch / f"resumed-{form}"
    by_the_command(url, form, whole).communicate()
    child = by_the_command(url, form, resumed)
    parts = -(-rows // 100_000)
    while len(list(resumed.glob("part-*"))) < parts // 2 and child.poll() is None:
        time.sleep(0.01)
    child.kill()
    child.communicate()
    left = len(list(resumed.glob(f"part-*.{form}")))
    print(by_the_command(url, form, resumed).communicate()[1].strip().splitlines()[-1], flush=True)
    names = [sorted(path.name for path in folder.iterdir()) for folder in (whole, resumed)]
    same = names[0] == names[1] and all(
        digest(whole / name) == digest(resumed / name) for name in names[0] if name != RECORD
    )
    killed = f"killed after {left} of {len(names[0]) - 1} parts (exit status {child.returncode})"
    return f"{killed}, {'equal' if same else 'NOT EQUAL'}"


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def database(dialect: str, scratch: Path) -> Iterator[str]:
    if dialect == "sqlite":
        yield f"sqlite:///{scratch / 'resnext.db'}"
        return
    from benchmarks.rig.installation import postgresql_server

    scratch.chmod(0o755)  # PostgreSQL runs as another user if we are root
    with postgresql_server(scratch / "postgresql") as (url, _):
        yield url.replace("postgresql:", "postgresql+psycopg:")


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    from benchmarks.rig.machine import machine

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"])
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        export(*chosen.child)
        return
    table = Table(title=f"{chosen.rows:,} rows to a file, rates by CPU time")
    for column in ("database", "format", "rows/s per core", "times present", "peak MB", "wall s"):
        table.add_column(column, justify="left" if column in ("database", "format") else "right")
    for dialect in chosen.databases:
        with tempfile.TemporaryDirectory() as folder, database(dialect, Path(folder)) as url:
            measure(dialect, url, Path(folder), chosen.rows, table, resume=chosen.resume)
    print(machine())
    Console(width=100).print(table)


def measure(  # noqa: PLR0913
    dialect: str, url: str, scratch: Path, rows: int, table: Any, *, resume: bool
) -> None:
    engine = make_engine(url)
    upgrade(engine)
    make_rows(engine, rows)
    engine.dispose()
    before = None
    for form in FORMATS:
        output = scratch / f"out.{form}"
        figures = json.loads(in_a_process(url, form, output).communicate()[0])
        assert figures["rows"] == rows
        output.unlink()
        rate = rows / figures["cpu_s"]
        before = before or rate
        cells = (f"{rate:,.0f}", f"{rate / before:.1f}", f"{figures['rss_mb']:.0f}")
        table.add_row(dialect, form, *cells, f"{figures['wall_s']:.1f}")
        print(
            dialect, form, figures, flush=True
        )  # so that something is printed before an interruption
        if resume and form != "present":
            print(f"{dialect}, {form}: {killed_and_resumed(url, form, scratch, rows)}", flush=True)


if __name__ == "__main__":
    main()
