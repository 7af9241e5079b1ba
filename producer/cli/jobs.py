"""The commands about jobs: submit, status, list, cancel, retry. `results` has a file of its own.

`producer.cli.main` registers them. Each connects settings, database and a module of the producer.
"""

# ruff: noqa: PLC0415  (a command imports what it needs when it runs, see `main`)
# ruff: noqa: T201  (results go to standard output)

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from contract.errors import JobStateError, UsageError
from producer.cli.environment import open_database, read_job, read_settings
from producer.cli.errors import FINISHED_WITH_FAILURES
from producer.cli.options import (
    JobArgument,
    JsonOption,
    ModelOption,
    PrecisionOption,
    SourcesArgument,
    WeightsOption,
    value_of,
)
from producer.cli.output import show, tell
from producer.cli.signals import stop_cleanly_when_terminated

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from contract.settings import Settings
    from producer.jobs.classes import ClassCount
    from producer.jobs.job import Job


def submit(  # noqa: PLR0913, PLR0917  (a parameter for each option)
    sources: SourcesArgument,
    name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    key: Annotated[
        str | None,
        typer.Option(help="A key of your own: the same images submitted again change nothing."),
    ] = None,
    priority: Annotated[
        int, typer.Option(min=-1000, max=1000, help="Each step doubles its part.")
    ] = 0,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="Give up what is not done after so long: 90s, 30m, 2h, 7d.",
            show_default=False,
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the job is finished.")] = False,
    fail_on_error: Annotated[
        bool, typer.Option("--fail-on-error", help="With --wait: exit with 1 if an image failed.")
    ] = False,
    model: ModelOption = None,
    weights: WeightsOption = None,
    precision: PrecisionOption = None,
) -> None:
    """Submit images; prints the id of their job.

    All of the images are submitted or, where one URI is refused, none.
    """
    if fail_on_error and not wait:
        raise UsageError("--fail-on-error goes with --wait: a submit alone classifies nothing.")
    stop_cleanly_when_terminated()
    from producer.cli.duration import read_duration
    from producer.cli.render.progress import counting
    from producer.submit.sources import read_runs
    from producer.submit.submission import Order, submit_entries

    settings = read_settings(model=model, weights=weights, precision=value_of(precision))
    expires_s = None if expires is None else read_duration(expires)
    order = Order.of(settings, name=name, key=key, priority=priority, expires_s=expires_s)
    with open_database(settings) as engine:
        with counting("submitting") as advance:
            submission = submit_entries(engine, read_runs(sources), order, advance=advance)
        print(submission.job, flush=True)
        what = "already submitted" if submission.repeated else f"submitted to {order.queue}"
        images = "1 image" if submission.images == 1 else f"{submission.images:,} images"
        tell(f"{images} {what}; next: resnextq status {submission.job} --watch")
        _warn_if_unserved(engine, submission.job, settings)
        if wait:
            _watch(engine, submission.job)
            _finish(read_job(engine, submission.job), fail_on_error=fail_on_error)


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
            _print_changes(engine, job, most)
        elif watch:
            _warn_if_unserved(engine, job, settings)
            _watch(engine, job)
        found = read_job(engine, job)
        if as_json and not watch:
            _print_json(found, _classes(engine, found, most))
        elif not as_json:
            _print_status(engine, found, settings, most)
        if found.is_finished:
            _finish(found, fail_on_error=fail_on_error)


def list_jobs(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many jobs.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List the latest jobs, the newest first."""
    from contract.database.engine import reading
    from producer.jobs.job import latest_jobs

    with open_database(read_settings()) as engine, reading(engine) as connection:
        jobs = latest_jobs(connection, limit)
    if as_json:
        import json

        from producer.jobs.job import as_json as shape

        print(json.dumps([shape(job) for job in jobs]))
        return
    from producer.cli.render.status import render_jobs

    if jobs:
        show(render_jobs(jobs))
    else:
        tell("There are no jobs yet; `resnextq submit` makes one.")


def cancel(
    jobs: Annotated[
        list[str],
        typer.Argument(metavar="JOB...", help="Ids of jobs, or the first characters of them."),
    ],
) -> None:
    """Stop jobs. What is done is kept; the rest is marked with the error code `cancelled`.

    Chunks that a worker is running are finished. A job that has ended cannot be cancelled.
    """
    from producer.jobs.cancel import cancel as stop

    status = 0
    with open_database(read_settings()) as engine:
        found = [read_job(engine, job) for job in jobs]  # before the first is cancelled
        for job in found:
            try:
                stopped = stop(engine, job.id)
            except JobStateError as error:
                tell(str(error))
                status = error.exit_code
            else:
                left = f"; {stopped.pending:,} images were left" if stopped.pending else ""
                tell(f"job {stopped.id} is cancelled{left}")
    if status:
        raise typer.Exit(status)


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


def _watch(engine: Engine, job: str) -> None:
    from producer.cli.render.progress import watching

    watching(_reader(engine, job))


def _print_changes(engine: Engine, job: str, most: int | None) -> None:
    from producer.cli.render.progress import poll

    last = None
    for found in poll(_reader(engine, job)):
        if found != last:
            _print_json(found, _classes(engine, found, most))
        last = found


def _classes(engine: Engine, job: Job, most: int | None) -> list[ClassCount] | None:
    """The job's most frequent classes, `most` of them; None: they are not asked for."""
    from contract.database.waits import Database
    from producer.jobs.classes import count_classes

    if most is None:
        return None
    return Database(engine).read(lambda connection: count_classes(connection, job.number, most))


def _print_json(job: Job, classes: list[ClassCount] | None) -> None:
    import json

    from producer.jobs import classes as counts
    from producer.jobs.job import as_json

    more = {} if classes is None else {"classes": counts.as_json(classes)}
    print(json.dumps(as_json(job) | more), flush=True)


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


def _warn_if_unserved(engine: Engine, job: str, settings: Settings) -> None:
    from contract.database.engine import reading
    from producer.jobs.job import find_job, live_workers, no_worker

    with reading(engine) as connection:
        found = find_job(connection, job)
        served = live_workers(connection, settings.lease_s)
    warning = no_worker(found.queue, served)
    if warning is not None and found.is_live:
        tell(warning)


def _finish(job: Job, *, fail_on_error: bool) -> None:
    if fail_on_error and (job.failed or job.state != "completed"):
        raise typer.Exit(FINISHED_WITH_FAILURES)
