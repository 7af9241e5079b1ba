"""The command `purge`: deletes jobs that have ended. `producer.cli.main` registers it."""

# ruff: noqa: PLC0415  (a command imports what it needs when it runs, see `main`)
# ruff: noqa: T201  (results go to standard output)

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer

from contract.errors import JobStateError, UsageError
from producer.cli import completion
from producer.cli.duration import read_duration
from producer.cli.environment import open_database, read_settings
from producer.cli.output import show, tell

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from contract.settings import Settings
    from producer.jobs.job import Job


LEAST_TOLD_BYTES: Final = 100_000
"""A smaller gain would be shown as 0.0 MB."""


class Ended(StrEnum):
    """Values of `--state`: the states of jobs that have ended."""

    completed = "completed"
    cancelled = "cancelled"
    expired = "expired"


def purge(
    older: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Jobs that ended at least this long ago: 90d, 12h, 30m."),
    ] = None,
    job: Annotated[
        list[str] | None,
        typer.Option(
            metavar="JOB",
            help="This job, which must have ended; may be repeated.",
            autocompletion=completion.jobs,
        ),
    ] = None,
    state: Annotated[
        list[Ended] | None,
        typer.Option(
            metavar="completed|cancelled|expired", help="Jobs in this state; may be repeated."
        ),
    ] = None,
    keep_parquet: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|URL",
            help="Write each job's results to FOLDER/JOB/ as Parquet first.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete. Without it, only list.")] = False,
) -> None:
    """Delete jobs that have ended, and their results. Without --yes, only list them.

    A job must meet all conditions. On a terminal it prints a table, otherwise one line per job
    with id, state, time of its end, images and name.

    Settings: RESNEXT_DATABASE_URL.

    Example: resnextq purge --older 90d --keep-parquet s3://bucket/kept/ --yes
    """
    from producer.jobs.purge import ENDED, Which, choose

    if older is None and not job and not state:
        raise UsageError("Say which jobs: --older 90d, --state completed, or --job JOB.")
    which = Which(
        named=job or (),
        older_s=None if older is None else read_duration(older),
        states=state or ENDED,
    )
    settings = read_settings()
    with open_database(settings) as engine:
        chosen = choose(engine, which)
        _print(chosen)
        if not yes:
            images = sum(one.total for one in chosen)
            found = "1 job" if len(chosen) == 1 else f"{len(chosen):,} jobs"
            would = f"{found} with {images:,} images would be deleted; --yes deletes them"
            tell(would if chosen else "no job that has ended matches")
            return
        if keep_parquet is not None:
            chosen = [one for one in chosen if _is_whole(one)]
        _purge_all(engine, settings, chosen, keep_parquet)


def _print(chosen: Sequence[Job]) -> None:
    if sys.stdout.isatty():
        from producer.cli.render.status import render_ended

        if chosen:
            show(render_ended(chosen))
        return
    for job in chosen:
        print(_line(job))


def _line(job: Job) -> str:
    from contract.database.clock import iso
    from contract.log import in_one_line

    ended = iso(job.finished_at) if job.finished_at is not None else "-"
    return "\t".join((job.id, job.state, ended, str(job.total), in_one_line(job.name or "")))


def _is_whole(job: Job) -> bool:
    if not job.is_finished:
        tell(
            f"job {job.id} was not deleted: the dispatcher is still marking its remaining "
            "images. Purge it later"
        )
    return job.is_finished


def _purge_all(
    engine: Engine, settings: Settings, chosen: Sequence[Job], keep_parquet: str | None
) -> None:
    from contract.database.space import free_bytes
    from producer.cli.render.progress import measuring
    from producer.jobs.purge import delete, mark_as_read, shrink
    from producer.removal import marked_jobs

    status = 0
    try:
        for number in marked_jobs(engine):
            _remove(engine, number, "the rest of an earlier purge")
        for job in chosen:
            try:
                if keep_parquet is None:
                    delete(engine, job.id)
                else:
                    _keep(engine, settings, job, keep_parquet)
                    mark_as_read(engine, job)
            except JobStateError as error:  # the job was retried meanwhile
                tell(str(error))
                status = error.exit_code
                continue
            _remove(engine, job.number, f"job {job.id}")
        with measuring("giving space back", free_bytes(engine), "bytes", shown=True) as advance:
            cut = shrink(engine, advance)
    except KeyboardInterrupt:
        tell(
            "interrupted; the dispatcher or the next `purge --yes` deletes the rest of the "
            "current job"
        )
        raise
    _tell_space(engine, cut)
    if status:
        raise typer.Exit(status)


def _keep(engine: Engine, settings: Settings, job: Job, folder: str) -> None:
    """Writes a job's results in parts. Parts that an earlier try has written are skipped."""
    from producer.cli.render.progress import exporting
    from producer.jobs.export.export import Export
    from producer.jobs.export.sinks import target_of

    target = target_of(f"{folder.rstrip('/')}/{job.id}/", settings)
    with exporting(job.total, shown=True) as advance:
        written = Export(engine=engine, job=job, form="parquet", advance=advance).write(target)
    tell(f"job {job.id}: {written.rows:,} images in {target.shown}")


def _remove(engine: Engine, number: int, what: str) -> None:
    from producer.cli.render.progress import measuring
    from producer.jobs.purge import expected_rows, remove

    began = time.monotonic()
    with measuring("deleting", expected_rows(engine, number), "rows", shown=True) as advance:
        removed = remove(engine, number, advance)
    seconds = max(time.monotonic() - began, 1e-3)
    rate = f"{removed.rows:,} rows in {seconds:.1f} s, {removed.rows / seconds:,.0f} rows/s"
    tell(f"{what} was deleted: {rate}, at most {1000 * removed.longest_s:.0f} ms per transaction")


def _tell_space(engine: Engine, cut: int) -> None:
    """Reports the space gained. PostgreSQL manages its space itself."""
    import shlex

    from contract.database.space import can_shrink, free_bytes

    if cut >= LEAST_TOLD_BYTES:
        tell(f"the database's file is {cut / 1e6:,.1f} MB smaller")
    free = free_bytes(engine)
    if free and not can_shrink(engine):  # the file was created by a version that did not prepare it
        path = shlex.quote(engine.url.database or "")
        tell(
            f"{free / 1e6:,.1f} MB of the database's file are free, and new jobs will use them. "
            f"To make the file smaller, stop all programs that use it, then run: sqlite3 {path} "
            "'PRAGMA auto_vacuum = 2; VACUUM'"
        )
