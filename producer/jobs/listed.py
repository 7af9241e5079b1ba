"""Which jobs a list has: by state, name, tags and age, a page at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, select

from contract.database.tables import job_tags, jobs
from producer.jobs.job import Job, read_chosen
from producer.submit.draft import is_visible


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Nothing said: all jobs."""

    state: str | None = None
    name: str | None = None
    """A part of the name."""
    tags: Sequence[str] = ()
    """`key` or `key=value`; a job has all of them."""
    since: datetime | None = None
    """Created then or later; with a time zone."""
    before: int | None = None
    """Jobs with a smaller number alone: a page ends with one."""


def list_jobs(connection: Connection, wanted: Filter, limit: int) -> list[Job]:
    """The newest first; without those whose submit has died before it was whole."""
    statement = _chosen(wanted).order_by(jobs.c.number.desc()).limit(limit)
    return read_chosen(connection, statement)


def _chosen(wanted: Filter) -> Select[Any]:
    statement = select(jobs).where(is_visible())
    if wanted.state is not None:
        statement = statement.where(jobs.c.state == wanted.state)
    if wanted.name is not None:
        statement = statement.where(jobs.c.name.contains(wanted.name, autoescape=True))
    if wanted.since is not None:
        statement = statement.where(jobs.c.created_at >= wanted.since)
    if wanted.before is not None:
        statement = statement.where(jobs.c.number < wanted.before)
    for tag in wanted.tags:
        key, equals, value = tag.partition("=")
        has = (job_tags.c.job_number == jobs.c.number) & (job_tags.c.key == key)
        if equals:
            has &= job_tags.c.value == value
        statement = statement.where(select(job_tags.c.key).where(has).exists())
    return statement
