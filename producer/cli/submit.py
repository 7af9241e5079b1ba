"""The command `submit`: makes a job in SQL from sources, or with `--dry-run` a report about them.

`producer.cli.main` registers it. It connects settings, database and `producer.submit`.
"""

# ruff: noqa: PLC0415  (a command imports what it needs when it runs, see `main`)
# ruff: noqa: T201  (results go to standard output)

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Annotated, Final

import typer

from contract.errors import ResnextQueueError, UsageError
from producer.cli import completion
from producer.cli.environment import open_database, read_job, read_settings
from producer.cli.jobs import finish, warn_if_unserved, watch_job
from producer.cli.options import (
    ColumnOption,
    IdColumnOption,
    Invalid,
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
    from producer.submit.dry_run import Forecast, Report
    from producer.submit.intake import Intake
    from producer.submit.sources.read import Reading
    from producer.submit.submission import Order, Submission

GARBAGE_OBJECTS: Final = 100_000


def submit(  # noqa: PLR0913, PLR0917  (a parameter for each option)
    sources: SourcesArgument,
    column: ColumnOption = None,
    id_column: IdColumnOption = None,
    on_invalid: Annotated[
        Invalid,
        typer.Option(
            help="For lines whose URI is missing or invalid. stop: submit nothing; skip: leave the "
            "line out; record: count it as a failed image at its position."
        ),
    ] = Invalid.stop,
    unique: Annotated[
        bool, typer.Option("--unique", help="Submit each URI once; skip repeats.")
    ] = False,
    sample: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Submit N images chosen at random.", show_default=False
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Submit nothing; print what would be submitted.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --dry-run: print JSON for programs.")
    ] = False,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="A name for the job.")] = None,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="Idempotency key: submitting again with the same key returns the same job.",
        ),
    ] = None,
    priority: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=-1000,
            max=1000,
            help="Higher runs sooner: each step doubles the job's share. Default: 0.",
            show_default=False,
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="Time limit (90s, 30m, 2h, 7d). Images not done by then are marked `expired`.",
            show_default=False,
        ),
    ] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="A tag to find the job by; may be repeated."),
    ] = None,
    stop_at_failures: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="Cancel the job once this share of its images has failed (20%), of at least 100.",
            show_default=False,
        ),
    ] = None,
    notify: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Send a signed POST to this URL when the job ends (Standard Webhooks).",
            show_default=False,
        ),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(
            metavar="JOB",
            help="Copy model, weights, precision, priority, tags and --stop-at-failures from this "
            "job, unless an option sets them.",
            show_default=False,
            autocompletion=completion.jobs,
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the job is finished.")] = False,
    fail_on_error: Annotated[
        bool,
        typer.Option("--fail-on-error", help="With --wait: exit with status 1 if an image failed."),
    ] = False,
    model: ModelOption = None,
    weights: WeightsOption = None,
    precision: PrecisionOption = None,
) -> None:
    """Submit images as a job, and print its id.

    If a line is invalid, nothing is submitted, unless --on-invalid says otherwise. Without a model
    in settings and options the job gets the one that this home's `up` serves.

    Settings: RESNEXT_DATABASE_URL, RESNEXT_MODEL, RESNEXT_WEIGHTS, RESNEXT_PRECISION,
    RESNEXT_FILE_ROOTS, RESNEXT_CHUNK_IMAGES, RESNEXT_OBJECT_STORES.

    Example: resnextq submit crawl.parquet --column image_url --id-column item --name "May crawl"
    """
    if fail_on_error and not wait:
        raise UsageError("--fail-on-error needs --wait: a submit alone classifies nothing.")
    if as_json and not dry_run:
        raise UsageError("--json needs --dry-run: otherwise a submit prints only the job's id.")
    if dry_run and wait:
        raise UsageError("--wait cannot be used with --dry-run, which submits nothing.")
    stop_cleanly_when_terminated()
    from contract.objects import Stores
    from contract.served import with_served
    from producer.cli.duration import read_duration
    from producer.jobs.like import Asked
    from producer.submit.check import OnInvalid
    from producer.submit.intake import Intake
    from producer.submit.options import read_share, read_tags
    from producer.submit.sources.columns import Wanted
    from producer.submit.sources.read import Reading
    from producer.submit.submission import Order

    asked = Asked(
        model=model,
        weights=weights,
        precision=value_of(precision),
        priority=priority,
        tags=read_tags(tag or []),
        stop_at_failures=None if stop_at_failures is None else read_share(stop_at_failures),
    )
    if like is not None:
        with open_database(read_settings()) as engine:
            asked = asked.like(read_job(engine, like))
    settings = with_served(
        read_settings(model=asked.model, weights=asked.weights, precision=asked.precision)
    )
    expires_s = None if expires is None else read_duration(expires)
    order = Order.of(
        settings,
        name=name,
        key=key,
        priority=asked.priority or 0,
        expires_s=expires_s,
        tags=asked.tags,
        stop_at_failures=asked.stop_at_failures,
        notify=notify,
    )
    reading = Reading(Wanted(column, id_column), Stores.of(settings))
    # Rows come and go by the million and are freed by their reference counts. Python's collector
    # would search them, and all loaded modules, again and again: a third of the time of a table.
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS)
    intake = Intake(on_invalid=OnInvalid(on_invalid.value), unique=unique, sample=sample)
    if dry_run:
        _report(settings, sources, reading, order, intake, as_json=as_json)
        return
    with open_database(settings) as engine:
        submission = _submit(engine, sources, reading, order, intake, settings)
        print(submission.job, flush=True)
        _tell_unread(reading)
        what = "already submitted" if submission.repeated else f"submitted to {order.queue}"
        then = "" if wait else f"; next: resnextq status {submission.job} --watch"
        tell(f"{_images(submission.images)} {what}{then}")
        if submission.notify_secret is not None:
            tell(
                f"notifications are signed with {submission.notify_secret}, which is shown only "
                "here"
            )
        if not wait:
            warn_if_unserved(engine, submission.job, settings)
            return
        from producer.cli.render.watch import summary

        ended = watch_job(engine, submission.job, settings)
        tell(summary(ended))
        finish(ended, fail_on_error=fail_on_error)


def _submit(  # noqa: PLR0913, PLR0917  (what the options say)
    engine: Engine,
    sources: list[str],
    reading: Reading,
    order: Order,
    intake: Intake,
    settings: Settings,
) -> Submission:
    from producer.cli.render.progress import counting
    from producer.submit.check import RefusedError
    from producer.submit.sources.read import read_runs
    from producer.submit.submission import submit_entries

    images = read_runs(sources, reading=reading)
    try:
        with counting("submitting") as advance:
            return submit_entries(engine, images, order, intake=intake, advance=advance)
    except RefusedError as error:
        about = [_about_files(settings)] if error.outside_roots else []
        advice = (
            "`--on-invalid skip` leaves them out, `--on-invalid record` keeps their positions, "
            "and `--dry-run` counts them."
        )
        raise RefusedError(
            "\n".join([str(error), *about, advice]), line=error.line, column=error.column
        ) from error
    finally:
        _tell_findings(reading, intake, settings)


def _about_files(settings: Settings) -> str:
    """Which files may be read, and how to permit others."""
    from contract.served import model_of_up

    roots = ", ".join(map(str, settings.file_roots))
    again = "start `resnextq up` or the workers again with it."
    set_here = "file_roots" in read_settings().model_fields_set
    if not set_here and model_of_up(settings) is not None:
        return (
            f"`resnextq up` may read {f'files under {roots}' if roots else 'no file'}. Add your "
            f"folders to its RESNEXT_FILE_ROOTS, and {again}"
        )
    if not set_here and "database_url" not in settings.model_fields_set:
        return (
            "`resnextq up` is not running. Start it with RESNEXT_FILE_ROOTS, which names the "
            "folders of your pictures. While it runs, this terminal needs no variable."
        )
    return (
        f"RESNEXT_FILE_ROOTS is {roots or 'not set, so no file may be read'}. Set it to the "
        f"folders of your pictures, here and where the workers are, and {again}"
    )


def _tell_findings(reading: Reading, intake: Intake, settings: Settings) -> None:
    """Reports what is not in the job, and why."""
    from contract.uris import OUTSIDE_ROOTS
    from producer.submit.check import OnInvalid

    for line in reading.left_out.lines():
        tell(line)
    findings = intake.findings
    if findings.refused:
        lines = findings.refused.total()
        done = "skipped" if intake.on_invalid is OnInvalid.skip else "recorded as failed"
        what = "1 line" if lines == 1 else f"{lines:,} lines"
        first = " The first:" if lines > len(findings.reports) else ""
        about = [_about_files(settings)] if OUTSIDE_ROOTS in findings.refused else []
        tell("\n".join([f"{what} {done}.{first}", *findings.reports, *about]))
    if findings.duplicates:
        tell(f"{_images(findings.duplicates)} left out: their URIs are repeated")


def _tell_unread(reading: Reading) -> None:
    from producer.submit.sources.columns import unread_columns

    unread = unread_columns(reading.wanted)
    if unread is not None:
        tell(unread)


def _report(  # noqa: PLR0913  (what the options say)
    settings: Settings,
    sources: list[str],
    reading: Reading,
    order: Order,
    intake: Intake,
    *,
    as_json: bool,
) -> None:
    from contract.uris import OUTSIDE_ROOTS
    from producer.cli.render.progress import counting
    from producer.submit.dry_run import look_at
    from producer.submit.sources.read import read_runs

    with counting("reading") as advance:
        report = look_at(read_runs(sources, reading=reading), order, intake, advance=advance)
    forecast = _forecast(settings, report, order.queue)
    if as_json:
        import json

        from producer.submit.dry_run import as_json as shape

        print(json.dumps(shape(report, forecast, reading.left_out)), flush=True)
    else:
        from producer.cli.render.dry_run import render

        show(render(report, forecast, reading.left_out))
    if OUTSIDE_ROOTS in report.refused:
        tell(_about_files(settings))
    _tell_unread(reading)
    if report.is_refused:
        tell("this would submit nothing: lines are refused, and --on-invalid is stop")
        raise typer.Exit(UsageError.exit_code)


def _forecast(settings: Settings, report: Report, queue: str) -> Forecast | None:
    """The forecast. None if the database does not answer: the report works without it."""
    from contract.database.engine import reading
    from producer.submit.dry_run import forecast

    try:
        with open_database(settings) as engine, reading(engine) as connection:
            return forecast(connection, queue, report.images, settings.lease_s)
    except ResnextQueueError as error:
        tell(f"no forecast: {error}")
        return None


def _images(number: int) -> str:
    return "1 image" if number == 1 else f"{number:,} images"
