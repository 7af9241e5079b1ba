"""`submit --dry-run`: reports what a submit of these sources would do.

It reads and checks every line. It counts refused lines by reason and images by host, and finds
repeated URIs as `--unique` does. It writes nothing but a temporary file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from sqlalchemy import Connection, func, select

from contract.database.clock import db_now
from contract.database.tables import jobs, workers
from contract.flow import count_chunks
from producer.submit.check import OnInvalid
from producer.submit.intake import Intake, groups_of
from producer.submit.sources.entry import Image
from producer.submit.sources.left_out import LeftOut
from producer.submit.submission import Order
from producer.submit.unique import Seen

SHOWN_HOSTS: Final = 10
# Number of hosts that are counted at once. If there are more, the rarest are dropped and the counts
# become lower bounds.
MAX_HOSTS: Final = 20_000
FILES: Final = "(files)"


class Hosts:
    """Counts images by host, exactly for up to `MAX_HOSTS` hosts."""

    def __init__(self) -> None:
        self.images: Counter[str] = Counter()
        self.is_exact = True

    def add(self, uris: Iterable[str]) -> None:
        self.images.update(map(_host_of, uris))
        if len(self.images) > MAX_HOSTS:
            self.images = Counter(dict(self.images.most_common(MAX_HOSTS // 2)))
            self.is_exact = False


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of a dry run."""

    images: int
    """Images that would be submitted. With `stop`, the number after all refused lines are
    corrected.
    """
    failed: int
    """Those of them that would be recorded as failed."""
    chunks: int
    queue: str
    on_invalid: OnInvalid
    unique: bool
    sample: int | None
    refused: Counter[str] = field(default_factory=Counter)
    reports: list[str] = field(default_factory=list)
    duplicates: int = 0
    hosts: Hosts = field(default_factory=Hosts)

    @property
    def is_refused(self) -> bool:
        """Whether a submit would end with an error."""
        return self.images == 0 or (self.on_invalid is OnInvalid.stop and bool(self.refused))


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """When the job would finish, at the current rate of its queue's workers."""

    workers: int
    images_per_s: float
    waiting: int
    """Unfinished images of other jobs. How the jobs share the workers depends on priorities."""
    images: int

    @property
    def alone_s(self) -> float | None:
        """Seconds if no other job ran. None: there is no rate yet."""
        return self.images / self.images_per_s if self.images_per_s else None

    @property
    def behind_s(self) -> float | None:
        """Seconds if all waiting images went first. None: there is no rate yet."""
        if not self.images_per_s:
            return None
        return (self.images + self.waiting) / self.images_per_s


def look_at(
    images: Iterable[Image],
    order: Order,
    intake: Intake,
    *,
    advance: Callable[[int], object] = lambda _images: None,
) -> Report:
    """Reads and checks all images.

    Raises:
        SourceError: a source cannot be read.
    """
    counting = OnInvalid.skip if intake.on_invalid is OnInvalid.stop else intake.on_invalid
    unsampled = replace(intake, on_invalid=counting, unique=False, sample=None)
    hosts, number, failed = Hosts(), 0, 0
    with Seen() as seen:
        for group in groups_of(images, order, unsampled):
            fresh = seen.keep(group)
            intake.findings.duplicates += len(group.uris) - len(fresh.uris)
            taken = fresh if intake.unique else group
            advance(len(group.uris))
            number += len(taken.uris)
            failed += len(taken.failed)
            hosts.add(uri for at, uri in enumerate(taken.uris) if at not in taken.failed)
    submitted = number if intake.sample is None else min(number, intake.sample)
    return Report(
        images=submitted,
        failed=failed if intake.sample is None else round(failed * submitted / max(1, number)),
        chunks=count_chunks(submitted, order.chunk_images),
        queue=order.queue,
        on_invalid=intake.on_invalid,
        unique=intake.unique,
        sample=intake.sample,
        refused=intake.findings.refused,
        reports=intake.findings.reports,
        duplicates=intake.findings.duplicates,
        hosts=hosts,
    )


def forecast(connection: Connection, queue: str, images: int, lease_s: float) -> Forecast:
    live = (
        (workers.c.queue == queue)
        & (workers.c.heartbeat_at >= db_now(-lease_s))
        & ~workers.c.stopping
    )
    rate = func.coalesce(func.sum(workers.c.images_per_s), 0.0)
    served = connection.execute(select(func.count(), rate).where(live)).one()
    left = jobs.c.total - jobs.c.classified - jobs.c.failed
    waiting = connection.scalar(
        select(func.coalesce(func.sum(left), 0)).where(
            jobs.c.state == "running", jobs.c.queue == queue
        )
    )
    return Forecast(
        workers=served[0], images_per_s=float(served[1]), waiting=int(waiting or 0), images=images
    )


def as_json(report: Report, expected: Forecast | None, left_out: LeftOut) -> dict[str, Any]:
    """The object that `--dry-run --json` prints."""
    images = report.hosts.images.total()
    return {
        "images": report.images,
        "failed": report.failed,
        "chunks": report.chunks,
        "queue": report.queue,
        "would_submit": not report.is_refused,
        "on_invalid": report.on_invalid.value,
        "unique": report.unique,
        "sample": report.sample,
        "refused": dict(report.refused.most_common()),
        "refused_first": [line.strip() for line in report.reports],
        "duplicates": report.duplicates,
        "hosts": [
            {"host": host, "images": n, "share": round(n / images, 6)}
            for host, n in report.hosts.images.most_common(SHOWN_HOSTS)
        ],
        "host_count": len(report.hosts.images),
        "host_counts_exact": report.hosts.is_exact,
        "left_out": left_out.counts(),
        "forecast": None if expected is None else _forecast_json(expected),
    }


def _forecast_json(expected: Forecast) -> dict[str, Any]:
    seconds = {"alone_s": expected.alone_s, "behind_s": expected.behind_s}
    return {
        "workers": expected.workers,
        "images_per_s": round(expected.images_per_s, 3),
        "waiting": expected.waiting,
    } | {name: None if value is None else round(value, 1) for name, value in seconds.items()}


def _host_of(uri: str) -> str:
    parts = uri.split("/", 3)
    return (parts[2].lower() if len(parts) > 2 else "") or FILES  # noqa: PLR2004  (scheme://host)
