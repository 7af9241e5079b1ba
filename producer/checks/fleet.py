"""Checks of all machines, read from the database: unserved jobs, versions, clocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Connection, func, select

from contract import VERSION
from contract.check import Check
from contract.database.clock import db_now
from contract.database.tables import jobs, workers
from contract.settings import Settings
from producer.jobs.job import live_workers
from producer.jobs.served import start_one

# Signatures for object stores tolerate 15 minutes, webhooks five. A clock set by NTP is exact to
# milliseconds.
MOST_SKEW_S: Final = 5.0
SHOWN_JOBS: Final = 3


def check_fleet(connection: Connection, settings: Settings) -> Iterator[Check]:
    yield from _unserved(connection, settings)
    yield _versions(connection, settings)
    yield check_clock(connection)


def _unserved(connection: Connection, settings: Settings) -> Iterator[Check]:
    """A warning for each queue with work but without a worker."""
    served = live_workers(connection, settings.lease_s)
    columns = (jobs.c.queue, jobs.c.model, jobs.c.weights, jobs.c.precision)
    statement = (
        select(*columns, func.count().label("jobs"), func.min(jobs.c.id).label("example"))
        .where(jobs.c.state == "running", jobs.c.paused_at.is_(None))
        .group_by(*columns)
        .order_by(*columns)
    )
    waiting = [row for row in connection.execute(statement) if not served[row.queue]]
    for row in waiting:
        number = "1 running job uses" if row.jobs == 1 else f"{row.jobs:,} running jobs use"
        yield Check(
            "unserved jobs",
            "warning",
            f"{number} {row.queue}, which no live worker serves, for example {row.example}",
            f"Start a worker: {start_one(row.model, row.weights, row.precision)}. Or cancel the "
            "jobs.",
        )
    if not waiting:
        yield Check("unserved jobs", "ok", "none: each running job has a live worker")


def _versions(connection: Connection, settings: Settings) -> Check:
    alive = workers.c.heartbeat_at >= db_now(-settings.lease_s)
    rows = connection.scalars(select(workers.c.version).where(alive)).all()
    versions = Counter(rows)
    found = ", ".join(f"{n} of {version}" for version, n in sorted(versions.items()))
    if set(versions) <= {VERSION}:
        return Check("versions", "ok", f"live workers: {found or 'none'}; this is {VERSION}")
    return Check(
        "versions",
        "warning",
        f"live workers: {found}; this is {VERSION}",
        "Install the same version on all machines. A worker that is stopped finishes its images "
        "first.",
    )


def check_clock(connection: Connection) -> Check:
    """Compares this machine's clock with the database's, which times all leases."""
    before = datetime.now(UTC)
    there = connection.execute(select(db_now())).scalar_one()
    after = datetime.now(UTC)
    # The database's answer is from some moment in between.
    skew_s = max((before - there).total_seconds(), (there - after).total_seconds(), 0.0)
    if skew_s <= MOST_SKEW_S:
        return Check("clock", "ok", f"within {max(1.0, skew_s):.0f} s of the database's")
    way = "ahead of" if before > there else "behind"
    return Check(
        "clock",
        "warning",
        f"this machine's clock is {skew_s:,.0f} s {way} the database's",
        "Let NTP set both clocks (chrony, systemd-timesyncd): certificates and the signatures "
        "of object stores and notifications depend on them. Leases do not.",
    )
