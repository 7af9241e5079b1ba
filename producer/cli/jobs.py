"""The commands about jobs that are there: status, list, results, cancel, retry.

`producer.cli.main` registers them. Each connects settings, database and a module of the producer.
"""

# ruff: noqa: PLC0415  (a command imports what it needs when it runs, see `main`)
# ruff: noqa: T201  (results go to standard output)

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contract.errors import JobStateError
from producer.cli.environment import open_database, read_job, read_settings
from producer.cli.errors import FINISHED_WITH_FAILURES
from producer.cli.options import (
    Format,
    JobArgument,
    JsonOption,
    Only,
)
from producer.cli.output import show, tell
from producer.cli.signals import stop_cleanly_when_terminated

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from contract.settings import Settings
    from producer.jobs.job import Job


def status(
    job: JobArgument,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show progress until the job is finished.")
    ] = False,
    as_json: JsonOption = False,
    fail_on_error: Annotated[
        bool,
        typer.Option("--fail-on-error", help="Exit with 1 if it is finished and images failed."),
    ] = False,
) -> None:
    """Show how far a job is, and why images failed.

    With --json and --watch: a line whenever something changes.
    """
    settings = read_settings()
    with open_database(settings) as engine:
        if watch and as_json:
            _print_changes(engine, job)
        elif watch:
            warn_if_unserved(engine, job, settings)
            watch_job(engine, job)
        found = read_job(engine, job)
        if as_json and not watch:
            _print_json(found)
        elif not as_json:
            _print_status(engine, found, settings)
        if found.is_finished:
            finish(found, fail_on_error=fail_on_error)


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


def results(
    job: JobArgument,
    layout: Annotated[
        Format, typer.Option("--format", help="A JSON object a line, or a table with a heading.")
    ] = Format.jsonl,
    output: Annotated[
        Path | None,
        typer.Option(help="A file, which appears when it is whole. Default: standard output."),
    ] = None,
    only: Annotated[Only | None, typer.Option(help="Leave out the others.")] = None,
) -> None:
    """Print a line for each settled image, in the order of submission.

    jsonl has an object a line: position, uri, ref (your own id), status, top5 (label, class_id,
    score) or error (code, detail), model, attempts, and what is known of precision, final_uri,
    bytes, sha256, format, width, height.

    csv has a heading: position, uri, ref, status, label_1 to label_5, class_1 to class_5,
    score_1 to score_5, error_code, error_detail, model, precision, attempts, final_uri, bytes,
    sha256, format, width, height.

    Scores are softmax probabilities, highest first.
    """
    from producer.jobs.results import FORMATS, read_results, writing

    with open_database(read_settings()) as engine:
        found = read_job(engine, job)
        records = read_results(engine, found, None if only is None else only.value)
        with writing(output) as file:
            lines = FORMATS[layout.value](records, file)
    if output is not None:
        tell(f"{lines:,} lines in {output}")
    if found.pending:
        tell(f"{found.pending:,} of {found.total:,} images are not settled yet")


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


def watch_job(engine: Engine, job: str) -> None:
    from producer.cli.render.progress import watching

    watching(_reader(engine, job))


def _print_changes(engine: Engine, job: str) -> None:
    from producer.cli.render.progress import poll

    last = None
    for found in poll(_reader(engine, job)):
        if found != last:
            _print_json(found)
        last = found


def _print_json(job: Job) -> None:
    import json

    from producer.jobs.job import as_json

    print(json.dumps(as_json(job)), flush=True)


def _print_status(engine: Engine, job: Job, settings: Settings) -> None:
    from contract.database.engine import reading
    from producer.cli.render.status import render_job
    from producer.jobs.job import live_workers

    with reading(engine) as connection:
        served = live_workers(connection, settings.lease_s)
    show(render_job(job, served))


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
