"""Measures the cost of a large job's pages: `python -m benchmarks.stage.pages [IMAGES]`.

It writes a job with so many results (1,000,000) into a new SQLite database, with thumbnails of 500
of them. Then it makes each page several times by calling its functions, without a browser. Prints
the median wall and processor time, the size, and the process's peak memory.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Engine, bindparam, select, text, update

from contract.database.engine import make_engine, reading
from contract.database.tables import class_counts, jobs, results
from migrations.upgrade import upgrade
from producer.jobs.job import Job, find_job
from producer.pages.gallery import Wanted, find_cards
from producer.pages.report import make_report
from producer.pages.view import look_at
from tests.settled import Answers, make_job

TIMES = 5
FAILED_EACH = 50
"""One image in this many has failed."""
COLUMNS = [column.name for column in results.c]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=int, nargs="?", default=1_000_000)
    images = parser.parse_args().images
    with tempfile.TemporaryDirectory() as folder:
        engine = make_engine(f"sqlite:///{Path(folder) / 'large.db'}")
        upgrade(engine)
        began = time.monotonic()
        job = make_large(engine, images)
        print(f"a job of {images:,} results, made in {time.monotonic() - began:.0f} s")
        print(f"{'':<28}{'wall':>10}{'processor':>12}{'size':>12}")
        for name, make in parts(engine, job).items():
            show(name, make)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"peak memory of the process: {peak:.0f} MiB")


def parts(engine: Engine, job: Job) -> dict[str, Callable[[], str]]:
    def view() -> str:
        with reading(engine) as connection:
            return str(look_at(connection, job))

    def gallery(wanted: Wanted) -> str:
        return str(find_cards(engine, job, wanted))

    return {
        "classes, charts and errors": view,
        "gallery": lambda: gallery(Wanted()),
        "gallery of one class": lambda: gallery(Wanted(label="tabby", min_score=0.3)),
        "gallery of failed images": lambda: gallery(Wanted(outcome="failed")),
        "report": lambda: make_report(engine, job, 30.0),
    }


def show(name: str, make: Callable[[], str]) -> None:
    walls, processor = [], []
    for _ in range(TIMES):
        wall, cpu = time.monotonic(), time.process_time()
        made = make()
        walls.append(time.monotonic() - wall)
        processor.append(time.process_time() - cpu)
    wall, cpu = statistics.median(walls), statistics.median(processor)
    print(f"{name:<28}{1000 * wall:>7.0f} ms{1000 * cpu:>9.0f} ms{len(made.encode()):>12,}")


def make_large(engine: Engine, images: int) -> Job:
    """Makes a small job, then lets SQL copy its rows until there are enough."""
    small = 2_000
    answers = Answers(total=small, pictures=500, failed=range(0, small, FAILED_EACH), seconds=3600)
    job_id = make_job(engine, answers)
    with engine.begin() as connection:
        number = connection.scalar(select(jobs.c.number).where(jobs.c.id == job_id))
        picked = ", ".join("position + :shift" if name == "position" else name for name in COLUMNS)
        again = text(
            f"INSERT INTO results ({', '.join(COLUMNS)}) SELECT {picked} FROM results "
            "WHERE job_number = :number AND position < :most"
        )
        for shift in range(small, images, small):
            most = min(small, images - shift)
            connection.execute(again, {"shift": shift, "number": number, "most": most})
        row = connection.execute(select(jobs).where(jobs.c.number == number)).one()
        times = images / small
        connection.execute(
            update(jobs)
            .where(jobs.c.number == number)
            .values(
                total=images,
                classified=round(row.classified * times),
                failed=round(row.failed * times),
                errors={code: round(count * times) for code, count in row.errors.items()},
            )
        )
        key = class_counts.c.class_id == bindparam("the_class")
        counts = connection.execute(select(class_counts)).all()
        for one in counts:
            connection.execute(
                update(class_counts).where(key).values(images=round(one.images * times)),
                {"the_class": one.class_id},
            )
        connection.execute(
            text("UPDATE thumbnails SET position = position * :times + 1 WHERE job_number = :job"),
            {"times": images // small, "job": number},
        )
    with reading(engine) as connection:
        return find_job(connection, job_id)


if __name__ == "__main__":
    main()
