"""The finished images of a job as records, for programs that import the producer.

`resnextq results` writes the same records with `producer.jobs.export`, as JSONL, CSV or Parquet.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Engine

from contract.database.engine import reading
from contract.record import Record
from producer.jobs.export.choice import Choice
from producer.jobs.export.rows import Vocabulary, record_of
from producer.jobs.export.window import POSITIONS, Windows
from producer.jobs.job import Job


def read_results(engine: Engine, job: Job, only: str | None = None) -> Iterator[Record]:
    """Records as `--format jsonl` prints them, in the order of positions.

    `only` is "classified" or "failed".
    """
    vocabulary = Vocabulary(engine, job)
    with reading(engine) as connection:
        where = Choice(only=only).conditions(connection, job)
    windows = Windows(engine, job.number, where)
    for start in range(0, job.total, POSITIONS):
        for row in windows.read(start, start + POSITIONS):
            yield record_of(row, vocabulary)
