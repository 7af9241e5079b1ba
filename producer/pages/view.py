"""The data that a job's page and its report show besides its row. Bounded, whatever the job's
size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, select

from contract.database.tables import jobs
from contract.failure import ErrorCode
from contract.stages import EDGES_MS, Stages, mean_ms, within_ms
from producer.jobs.classes import ClassCount, count_classes
from producer.jobs.failures import hosts_of
from producer.jobs.job import Job
from producer.jobs.sampled import read_sample
from producer.pages.charts import Pace, Scores, draw_pace, draw_scores
from producer.pages.html import explain, milliseconds

# The times that workers measure per image, in the order of its way.
STAGES: Final = {
    "fetch_s": "Fetch",
    "decode_wait_s": "Wait for the decoder",
    "decode_s": "Decode, resize and crop",
    "batch_wait_s": "Wait for a batch",
    "device_s": "Network, for the whole batch",
}
MOST_CLASSES: Final = 200
MOST_CODES: Final = 30
MOST_HOSTS: Final = 6


@dataclass(frozen=True, kw_only=True)
class CodeView:
    """A job's images that failed with one error code."""

    code: str
    images: int
    known: ErrorCode | None
    hosts: list[tuple[str | None, int]]
    more_hosts: int
    looked_at: int
    """Number of images whose hosts were counted."""


@dataclass(frozen=True, kw_only=True)
class StageView:
    """How long images took in one stage."""

    name: str
    mean: str
    half: str
    most: str
    """Time within which 95% of the images were done."""


@dataclass(frozen=True, kw_only=True)
class JobView:
    classes: list[ClassCount]
    class_count: int
    errors: list[CodeView]
    pace: Pace | None
    scores: Scores | None
    stages: list[StageView]
    """In the order of an image's way. Empty if no worker measured times."""
    sampled: int
    settled: int


def look_at(connection: Connection, job: Job) -> JobView:
    classes = count_classes(connection, job.number)
    sample = read_sample(connection, job)
    codes = list(job.errors.items())[:MOST_CODES]
    return JobView(
        classes=classes[:MOST_CLASSES],
        class_count=len(classes),
        errors=[_look_at_code(connection, job, code, images) for code, images in codes],
        pace=draw_pace(sample),
        scores=draw_scores(sample),
        stages=_stages(connection.scalar(select(jobs.c.stages).where(jobs.c.number == job.number))),
        sampled=len(sample.images),
        settled=job.classified + job.failed,
    )


def _stages(found: Stages | None) -> list[StageView]:
    return [
        StageView(
            name=name,
            mean=milliseconds(mean_ms(found[stage])),
            half=_edge(within_ms(found[stage], 0.5)),
            most=_edge(within_ms(found[stage], 0.95)),
        )
        for stage, name in STAGES.items()
        if found and stage in found
    ]


def _edge(edge_ms: int | None) -> str:
    longest = milliseconds(EDGES_MS[-1])
    return f"over {longest}" if edge_ms is None else milliseconds(edge_ms)


def _look_at_code(connection: Connection, job: Job, code: str, images: int) -> CodeView:
    hosts = hosts_of(connection, job, code)
    return CodeView(
        code=code,
        images=images,
        known=explain(code),
        hosts=hosts.most_common(MOST_HOSTS),
        more_hosts=max(0, len(hosts) - MOST_HOSTS),
        looked_at=hosts.total(),
    )
