"""The commands about existing jobs: status, list, retry.

`producer.cli.main` registers them. They connect settings, database and a module of the producer.
"""

# ruff: noqa: PLC0415  (a command imports what it needs when it runs, see `main`)
# ruff: noqa: T201  (results go to standard output)

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from producer.cli import completion
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
        bool, typer.Option("--watch", help="Show progress until the job ends.")
    ] = False,
    as_json: JsonOption = False,
    fail_on_error: Annotated[
        bool,
        typer.Option(
            "--fail-on-error", help="Exit with status 1 if the job has ended and images failed."
        ),
    ] = False,
    classes: Annotated[
        bool, typer.Option("--classes", help="Also show the most frequent classes.")
    ] = False,
    top: Annotated[
        int, typer.Option(metavar="N", min=1, help="With --classes: how many to show.")
    ] = 20,
) -> None:
    """Show a job's progress, and why images failed.

    --watch with --json prints a line at every change.

    Settings: RESNEXT_DATABASE_URL.

    Example: resnextq status last --watch
    """
    settings = read_settings()
    most = top if classes else None
    with open_database(settings) as engine:
        found = read_job(engine, job)
        if watch and as_json:
            _print_changes(engine, found.id, settings, most)
        elif watch:
            watch_job(engine, found.id, settings)
        found = read_job(engine, found.id)
        if as_json and not watch:
            _print_json(engine, found, settings, most)
        elif not as_json:
            _print_status(engine, found, settings, most)
        if found.is_finished:
            finish(found, fail_on_error=fail_on_error)


def list_jobs(  # noqa: PLR0913, PLR0917  (a parameter for each option)
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="Only jobs whose name contains this text.", show_default=False
        ),
    ] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY[=VALUE]", help="Only jobs with this tag; may be repeated."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="Only jobs submitted within this time: 90s, 30m, 2h, 7d.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int,
        typer.Option(metavar="N", min=1, max=10_000, help="Show at most this many jobs."),
    ] = 20,
    as_json: JsonOption = False,
) -> None:
    """List jobs, newest first.

    Settings: RESNEXT_DATABASE_URL.

    Example: resnextq list --state running --tag team=search
    """
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
        show(render_jobs(jobs, served))
    elif wanted == Filter():
        tell("There are no jobs yet; `resnextq submit` makes one.")
    else:
        tell("No job matches; `resnextq list` shows the latest.")


def _moment(since: str | None) -> datetime | None:
    from producer.cli.duration import read_duration

    return None if since is None else datetime.now(UTC) - timedelta(seconds=read_duration(since))


def retry(
    job: JobArgument,
    error: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CODE",
            help="Only images with this error code; may be repeated. Default: all.",
            autocompletion=completion.error_codes,
        ),
    ] = None,
) -> None:
    """Run a job's failed images again, and print their number.

    New results replace the old ones. Images of a cancelled or expired job run as well. If the
    command is interrupted, run it again.

    Settings: RESNEXT_DATABASE_URL.

    Example: resnextq retry last --error timeout --error http_503
    """
    stop_cleanly_when_terminated()
    from producer.jobs.retry import retry as run_again

    with open_database(read_settings()) as engine:
        again = run_again(engine, job, error or ())
    if not sys.stdout.isatty():  # there the message has it
        print(again.images, flush=True)
    if again.images:
        images = "1 image runs" if again.images == 1 else f"{again.images:,} images run"
        tell(f"{images} again; next: resnextq status {again.job} --watch")
    elif not again.left:
        tell("no image has failed" + (f" with {' or '.join(error)}" if error else ""))
    if again.left:
        tell(
            f"{again.left:,} failed images do not run again: their chunks still run, or they "
            "have just failed again"
        )


def _reader(engine: Engine, job: str) -> Callable[[], Job]:
    """A function that reads the job, and waits while the database is unavailable."""
    from contract.database.waits import Database
    from producer.jobs.job import find_job

    database = Database(engine)
    return lambda: database.read(lambda connection: find_job(connection, job))


def watch_job(engine: Engine, job: str, settings: Settings) -> Job:
    """Shows the job's progress until it has ended. Returns it."""
    from contract.database.waits import Database
    from contract.served import model_of_up
    from producer.cli.render.watch import watching
    from producer.jobs.job import find_job, live_workers

    database = Database(engine)
    return watching(
        lambda: database.read(
            lambda connection: (
                find_job(connection, job),
                live_workers(connection, settings.lease_s),
            )
        ),
        up=partial(model_of_up, settings),
    )


def _print_changes(engine: Engine, job: str, settings: Settings, most: int | None) -> None:
    from producer.cli.render.watch import poll

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
    """The job's `most` most frequent classes. None: not asked for."""
    from contract.database.waits import Database
    from producer.jobs.classes import count_classes

    if most is None:
        return None
    return Database(engine).read(lambda connection: count_classes(connection, job.number, most))


def _print_status(engine: Engine, job: Job, settings: Settings, most: int | None) -> None:
    from contract.database.engine import reading
    from contract.served import model_of_up
    from producer.cli.render.status import render_classes, render_job
    from producer.jobs.job import live_workers

    with reading(engine) as connection:
        served = live_workers(connection, settings.lease_s)
    show(render_job(job, served, partial(model_of_up, settings)))
    classes = _classes(engine, job, most)
    if classes is not None:
        show(render_classes(classes))


def warn_if_unserved(engine: Engine, job: str, settings: Settings) -> None:
    from contract.database.engine import reading
    from contract.served import model_of_up
    from producer.cli.render.watch import waiting
    from producer.jobs.job import find_job, live_workers

    with reading(engine) as connection:
        served = live_workers(connection, settings.lease_s)
        warning = waiting(find_job(connection, job), served, partial(model_of_up, settings))
    if warning is not None:
        tell(warning)


def finish(job: Job, *, fail_on_error: bool) -> None:
    if fail_on_error and (job.failed or job.state != "completed"):
        raise typer.Exit(FINISHED_WITH_FAILURES)
