"""Times the SQL statements in the docs on a database of a million results, before and after.

    python -m benchmarks.system.sql [--rows N] [--rounds N]

"Before" is schema 0002, whose view `predictions` joins `results` to a UNION ALL of itself; "after"
is the newest schema. Both run on the same rows, on PostgreSQL and on SQLite. Prints one table: the
median time of each statement, and how often its plan reads all of `results`.
`tests/integration/contract/test_documented_sql.py` uses fewer rows and the same plans.
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError, ProgrammingError

from contract.database.engine import make_engine, reading
from migrations.upgrade import upgrade

ROOT: Final = Path(__file__).parents[2]
BEFORE: Final = "0002"
ROWS: Final = 1_000_000
JOBS: Final = 20
CLASSES: Final = 1_000
TABBY: Final = 281
ESPRESSO: Final = 967
# The rows are made from the numbers 0, 1, 2, …, up to `last`.
NUMBERS: Final = {
    "postgresql": "numbers(n) AS (SELECT generate_series(0, {last}::bigint))",
    "sqlite": "numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < {last})",
}
JOBS_SQL: Final = """
INSERT INTO jobs (number, id, owner, priority, state, model, weights, precision, queue,
                  created_at, total, classified, failed, errors, images_per_s)
WITH RECURSIVE {numbers}
SELECT n + 1, CASE n WHEN 0 THEN 'JOB' ELSE 'job-' || n END, 'me', 0, 'completed', 'm', 'w',
       'fp16', 'q', CURRENT_TIMESTAMP, 0, 0, 0, '{{}}', 0.0
FROM numbers
"""
MODELS_SQL: Final = """
INSERT INTO models (number, title, model, weights, weights_sha256)
WITH RECURSIVE {numbers}
SELECT n + 1, 'm/w' || n, 'm', 'w' || n, '0' FROM numbers
"""
LABELS_SQL: Final = """
INSERT INTO labels (model_number, class_id, label)
WITH RECURSIVE {numbers}
SELECT models.number, n, CASE n WHEN {tabby} THEN 'tabby' WHEN {espresso} THEN 'espresso'
       ELSE 'label ' || n END
FROM numbers, models
"""
# The images of one job are together, as workers store them; one in twenty has failed.
RESULTS_SQL: Final = """
INSERT INTO results (job_number, position, uri, attempts, settled_at, worker, error_code, sha256,
    format, width, height, bytes, model_number, precision, class_1, class_2, class_3, class_4,
    class_5, score_1, score_2, score_3, score_4, score_5)
WITH RECURSIVE {numbers}, classified AS (
    SELECT n, CASE WHEN n % 20 = 0 THEN NULL ELSE n * 7919 % 104729 END AS mixed FROM numbers
)
SELECT 1 + n * {jobs} / ({last} + 1), n,
    'https://images.site-' || n / 10000 || '.example/' || n || '/a3f8c1e09b7d4652.jpg', 1,
    CURRENT_TIMESTAMP, 'worker-1', CASE WHEN mixed IS NULL THEN 'http_404' END, {sha256},
    'JPEG', 640, 480, 108000, CASE WHEN mixed IS NOT NULL THEN 1 END, 'fp16',
    mixed % {classes}, (mixed + 1) % {classes}, (mixed + 2) % {classes}, (mixed + 3) % {classes},
    (mixed + 4) % {classes}, mixed % 97 / 100.0, 0.02, 0.005, 0.003, 0.002
FROM classified
"""
SHA256: Final = {
    "postgresql": "md5(n::text) || md5((n + 1)::text)",
    "sqlite": "lower(hex(randomblob(32)))",
}
READS_ALL: Final = re.compile(r"Seq Scan on results\b|\bSCAN results\b")


def documented() -> dict[str, str]:
    """Every SQL statement in README and docs, by document and its number there."""
    return {
        f"{document.name}-{number}": statement
        for document in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
        for number, statement in enumerate(
            re.findall(r"```sql\n(.*?)```", document.read_text(), re.DOTALL), start=1
        )
    }


def fill(engine: Engine, rows: int) -> None:
    """Inserts two models, some jobs (one with the id `JOB`) and so many results, with SQL alone."""
    dialect = engine.dialect.name
    makers = ((JOBS_SQL, JOBS), (MODELS_SQL, 2), (LABELS_SQL, CLASSES), (RESULTS_SQL, rows))
    with engine.begin() as connection:
        for statement, number in makers:
            made = statement.format(
                numbers=NUMBERS[dialect].format(last=number - 1),
                last=number - 1,
                sha256=SHA256[dialect],
                jobs=JOBS,
                classes=CLASSES,
                tabby=TABBY,
                espresso=ESPRESSO,
            )
            connection.execute(text(made))


def plan_of(engine: Engine, statement: str) -> str:
    """The database's plan, one step per line."""
    how, column = (
        ("EXPLAIN", 0) if engine.dialect.name == "postgresql" else ("EXPLAIN QUERY PLAN", 3)
    )
    with reading(engine) as connection:
        return "\n".join(row[column] for row in connection.execute(text(f"{how} {statement}")))


def times_all_is_read(plan: str) -> int:
    """Counts the steps of a plan that read all of `results`."""
    return len(READS_ALL.findall(plan))


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    from benchmarks.rig.machine import machine

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    title = f"{chosen.rows:,} results of {JOBS} jobs, median of {chosen.rounds} rounds"
    table = Table("database", "statement", "before", "after", "ratio", "reads all", title=title)
    for open_database in (postgresql, sqlite):
        with tempfile.TemporaryDirectory() as scratch, open_database(Path(scratch)) as engine:
            for cells in compare(engine, chosen.rows, chosen.rounds):
                table.add_row(engine.dialect.name, *cells)
    print(machine())
    Console(width=120).print(table)


def compare(engine: Engine, rows: int, rounds: int) -> Iterator[tuple[str, ...]]:
    """Makes the cells of each statement's line."""
    upgrade(engine, BEFORE)
    fill(engine, rows)
    analyze(engine)
    before = measure(engine, rounds)
    upgrade(engine)
    for name, (after_ms, after_all) in measure(engine, rounds).items():
        if name in before:
            before_ms, before_all = before[name]
            cells = f"{before_ms:,.1f} ms", f"{after_ms:,.1f} ms", f"{before_ms / after_ms:.1f}"
            yield (name, *cells, f"{before_all} → {after_all}")
        else:
            yield (name, "", f"{after_ms:,.1f} ms", "", str(after_all))


def analyze(engine: Engine) -> None:
    """Does what PostgreSQL's autovacuum does; our SQLite databases are never analyzed."""
    if engine.dialect.name == "postgresql":
        with engine.begin() as connection:
            connection.execute(text("ANALYZE"))


def measure(engine: Engine, rounds: int) -> dict[str, tuple[float, int]]:
    """Median milliseconds of each statement, and how often its plan reads all of `results`.

    Leaves out statements that use a view that this schema does not have.
    """
    engine.dispose()  # SQLite explains a prepared statement with its view at that time
    measured = {}
    for name, statement in documented().items():
        try:
            plan = plan_of(engine, statement)
        except (ProgrammingError, OperationalError):
            continue
        times = [time_ms(engine, statement) for _ in range(rounds)]
        measured[name] = (statistics.median(times), times_all_is_read(plan))
    return measured


def time_ms(engine: Engine, statement: str) -> float:
    with reading(engine) as connection:
        began = time.perf_counter()
        connection.execute(text(statement)).all()
        return 1000 * (time.perf_counter() - began)


@contextmanager
def postgresql(scratch: Path) -> Iterator[Engine]:
    from benchmarks.rig.installation import postgresql_server

    scratch.chmod(0o755)  # PostgreSQL runs as another user if we are root
    with postgresql_server(scratch / "postgresql") as (url, _):
        engine = make_engine(url.replace("postgresql:", "postgresql+psycopg:"))
        yield engine
        engine.dispose()


@contextmanager
def sqlite(scratch: Path) -> Iterator[Engine]:
    engine = make_engine(f"sqlite:///{scratch / 'resnext.db'}")
    yield engine
    engine.dispose()


if __name__ == "__main__":
    main()
