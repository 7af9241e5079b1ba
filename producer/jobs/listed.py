"""Chooses the jobs of a list by state, name, tags and age, one page at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Select, false, select

from contract.database.tables import job_tags, jobs
from contract.errors import UsageError
from producer.jobs.job import Job, read_chosen
from producer.submit.draft import is_visible


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Conditions on jobs. Without any, all jobs match."""

    owner: str | None = None
    state: str | None = None
    name: str | None = None
    """Part of the name."""
    tags: Sequence[str] = ()
    """`key` or `key=value`; a job must have all of them."""
    since: datetime | None = None
    """Created at this time or later; with a time zone."""
    before: int | None = None
    """Only jobs with a smaller number. The last job of a page gives the number for the next."""

    def __post_init__(self) -> None:
        """Checks `since`.

        Raises:
            UsageError: `since` cannot be converted to UTC.
        """
        if self.since is not None:
            try:
                self.since.astimezone(UTC)
            except OverflowError:
                raise UsageError(
                    f"since is {self.since}, which is out of range in UTC (years 1 to 9999)."
                ) from None


def list_jobs(connection: Connection, wanted: Filter, limit: int) -> list[Job]:
    """The newest first, without jobs whose submit died before the end."""
    statement = _chosen(wanted).order_by(jobs.c.number.desc()).limit(limit)
    return read_chosen(connection, statement)


def _chosen(wanted: Filter) -> Select[Any]:
    statement = select(jobs).where(is_visible())
    if not all(text.isprintable() for text in (wanted.name or "", *wanted.tags)):
        return statement.where(false())  # no job has such a text, and PostgreSQL refuses a NUL
    if wanted.owner is not None:
        statement = statement.where(jobs.c.owner == wanted.owner)
    if wanted.state is not None:
        statement = statement.where(jobs.c.state == wanted.state)
    if wanted.name:  # every name contains an empty text
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
