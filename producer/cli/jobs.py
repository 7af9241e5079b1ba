"""The commands about jobs that are there: status, list, retry.

`producer.cli.main` registers them. Each connects settings, database and a module of the producer.
"""

# ruff: noqa: PLC0415  (a command imports what it needs when it runs, see `main`)
# ruff: noqa: T201  (results go to standard output)

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from producer.cli.environment import open_database, read_job, read_settings
from producer.cli.errors import FINISHED_WITH_FAILURES
from producer.cli.options import (
    JobArgument,
    JobState,
    JsonOption,
    value_of,
)
from producer.cli.output import show, tell
from producer.cli.signals import stop_cleanly_when_terminated

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from contract.settings import Settings
    from producer.jobs.classes import ClassCount
    from producer.jobs.job import Job


def status(  # noqa: PLR0913, PLR0917  (a parameter for each option)
    job: JobArgument,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show progress until the job is finished.")
    ] = False,
    as_json: JsonOption = False,
    fail_on_error: Annotated[
        bool,
        typer.Option("--fail-on-error", help="Exit with 1 if it is finished and images failed."),
    ] = False,
    classes: Annotated[
        bool, typer.Option("--classes", help="Also show the most frequent classes.")
    ] = False,
    top: Annotated[int, typer.Option(min=1, help="With --classes: how many of them.")] = 20,
) -> None:
    """Show how far a job is, and why images failed.

    With --json and --watch: a line whenever something changes.
    """
    settings = read_settings()
    most = top if classes else None
    with open_database(settings) as engine:
        if watch and as_json:
            _print_changes(engine, job, settings, most)
        elif watch:
            warn_if_unserved(engine, job, settings)
            watch_job(engine, job)
        found = read_job(engine, job)
        if as_json and not watch:
            _print_json(engine, found, settings, most)
        elif not as_json:
            _print_status(engine, found, settings, most)
        if found.is_finished:
            finish(found, fail_on_error=fail_on_error)


def list_jobs(  # noqa: PLR0913, PLR0917  (a parameter for each option)
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Only jobs with this in their name.", show_default=False)
    ] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY[=VALUE]", help="Only jobs with this tag; may be repeated."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION", help="Only jobs of the last 90s, 30m, 2h, 7d.", show_default=False
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many jobs.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List the latest jobs, the newest first."""
    from contract.database.engine import reading
    from producer.jobs.job import live_workers
    from producer.jobs.listed import Filter
    from producer.jobs.listed import list_jobs as listed

    settings = read_settings()
    wanted = Filter(state=value_of(state), name=name, tags=tag or (), since=_moment(since))
    with open_database(settings) as engine, reading(engine) as connection:
        jobs = listed(connection, wanted, limit)
        served = live_workers(connection, settings.lease_s)
    if as_json:
        import json

        from producer.jobs.job import as_json as shape

        print(json.dumps([shape(job, served) for job in jobs]))
        return
    from producer.cli.render.status import render_jobs

    if jobs:
        show(render_jobs(jobs))
    elif wanted == Filter():
        tell("There are no jobs yet; `resnextq submit` makes one.")
    else:
        tell("No job is like that; `resnextq list` shows the latest.")


def _moment(since: str | None) -> datetime | None:
    from producer.cli.duration import read_duration

    return None if since is None else datetime.now(UTC) - timedelta(seconds=read_duration(since))


def retry(
    job: JobArgument,
    error: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CODE", help="Only images with this error code; may be repeated. Default: all."
        ),
    ] = None,
) -> None:
    """Run failed images again, in place of their results; prints how many.

    A job that was cancelled or has expired goes on with them. Broken off, it is repeated.
    """
    stop_cleanly_when_terminated()
    from producer.jobs.retry import retry as run_again

    with open_database(read_settings()) as engine:
        again = run_again(engine, job, error or ())
    print(again.images, flush=True)
    if again.images:
        tell(f"next: resnextq status {again.job} --watch")
    if again.left:
        tell(f"{again.left:,} failed images are in chunks that still run, or have just failed")


def _reader(engine: Engine, job: str) -> Callable[[], Job]:
    """Reads the job each time it is called, and waits while the database is away."""
    from contract.database.waits import Database
    from producer.jobs.job import find_job

    database = Database(engine)
    return lambda: database.read(lambda connection: find_job(connection, job))


def watch_job(engine: Engine, job: str) -> None:
    from producer.cli.render.progress import watching

    watching(_reader(engine, job))


def _print_changes(engine: Engine, job: str, settings: Settings, most: int | None) -> None:
    from producer.cli.render.progress import poll

    last = None
    for found in poll(_reader(engine, job)):
        if found != last:
            _print_json(engine, found, settings, most)
        last = found


def _print_json(engine: Engine, job: Job, settings: Settings, most: int | None) -> None:
    import json

    from contract.database.waits import Database
    from producer.jobs import classes as counts
    from producer.jobs.job import as_json, live_workers

    served = Database(engine).read(partial(live_workers, lease_s=settings.lease_s))
    shape = as_json(job, served)
    classes = _classes(engine, job, most)
    if classes is not None:
        shape["classes"] = counts.as_json(classes)
    print(json.dumps(shape), flush=True)


def _classes(engine: Engine, job: Job, most: int | None) -> list[ClassCount] | None:
    """The job's most frequent classes, `most` of them; None: they are not asked for."""
    from contract.database.waits import Database
    from producer.jobs.classes import count_classes

    if most is None:
        return None
    return Database(engine).read(lambda connection: count_classes(connection, job.number, most))


def _print_status(engine: Engine, job: Job, settings: Settings, most: int | None) -> None:
    from contract.database.engine import reading
    from producer.cli.render.status import render_classes, render_job
    from producer.jobs.job import live_workers

    with reading(engine) as connection:
        served = live_workers(connection, settings.lease_s)
    show(render_job(job, served))
    classes = _classes(engine, job, most)
    if classes is not None:
        show(render_classes(classes))


def warn_if_unserved(engine: Engine, job: str, settings: Settings) -> None:
    from contract.database.engine import reading
    from producer.jobs.job import find_job, live_workers, no_worker

    with reading(engine) as connection:
        found = find_job(connection, job)
        served = live_workers(connection, settings.lease_s)
    warning = no_worker(found.queue, served)
    if warning is not None and found.is_live:
        tell(warning)


def finish(job: Job, *, fail_on_error: bool) -> None:
    if fail_on_error and (job.failed or job.state != "completed"):
        raise typer.Exit(FINISHED_WITH_FAILURES)
