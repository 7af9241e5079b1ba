"""The command `submit`: sources to a job in SQL, or with `--dry-run` to a report about them.

`producer.cli.main` registers it. It connects settings, database and `producer.submit`.
"""

# ruff: noqa: PLC0415  (a command imports what it needs when it runs, see `main`)
# ruff: noqa: T201  (results go to standard output)

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Annotated, Final

import typer

from contract.errors import ResnextQueueError, UsageError
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
    from producer.submit.sources.read import Reading
    from producer.submit.submission import Intake, Order, Submission

GARBAGE_OBJECTS: Final = 100_000


def submit(  # noqa: PLR0913, PLR0917  (a parameter for each option)
    sources: SourcesArgument,
    column: ColumnOption = None,
    id_column: IdColumnOption = None,
    on_invalid: Annotated[
        Invalid,
        typer.Option(
            help="Lines without a URI that workers take: stop submits nothing, skip leaves them "
            "out, record makes each a failed image at its position."
        ),
    ] = Invalid.stop,
    unique: Annotated[
        bool, typer.Option("--unique", help="Leave out URIs that have come before.")
    ] = False,
    sample: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Take N images at random, in their order.", show_default=False
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Submit nothing; report on what is there.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --dry-run: JSON for programs.")
    ] = False,
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
    tag: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="A tag, for `list --tag`; may be repeated."),
    ] = None,
    stop_at_failures: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="Cancel the rest once so much has failed, of 100 images or more: 20%.",
            show_default=False,
        ),
    ] = None,
    notify: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Gets a signed POST when the job has ended (Standard Webhooks).",
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

    All of the images are submitted or, where a line is refused, none; --on-invalid has other ways.
    """
    if fail_on_error and not wait:
        raise UsageError("--fail-on-error goes with --wait: a submit alone classifies nothing.")
    if as_json and not dry_run:
        raise UsageError("--json goes with --dry-run: a submit prints the id of its job alone.")
    if dry_run and wait:
        raise UsageError("--wait does not go with --dry-run, which submits nothing.")
    stop_cleanly_when_terminated()
    from contract.objects import Stores
    from producer.cli.duration import read_duration
    from producer.submit.check import OnInvalid
    from producer.submit.options import read_share, read_tags
    from producer.submit.sources.columns import Wanted
    from producer.submit.sources.read import Reading
    from producer.submit.submission import Intake, Order

    settings = read_settings(model=model, weights=weights, precision=value_of(precision))
    expires_s = None if expires is None else read_duration(expires)
    order = Order.of(
        settings,
        name=name,
        key=key,
        priority=priority,
        expires_s=expires_s,
        tags=read_tags(tag or []),
        stop_at_failures=None if stop_at_failures is None else read_share(stop_at_failures),
        notify=notify,
    )
    reading = Reading(Wanted(column, id_column), Stores.of(settings))
    # Rows come and go by the million, freed by their reference counts. Python would look through
    # them, and through all that is loaded, again and again: a third of the time of a table.
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS)
    intake = Intake(on_invalid=OnInvalid(on_invalid.value), unique=unique, sample=sample)
    if dry_run:
        _report(settings, sources, reading, order, intake, as_json=as_json)
        return
    with open_database(settings) as engine:
        submission = _submit(engine, sources, reading, order, intake)
        print(submission.job, flush=True)
        what = "already submitted" if submission.repeated else f"submitted to {order.queue}"
        tell(f"{_images(submission.images)} {what}; next: resnextq status {submission.job} --watch")
        if submission.notify_secret is not None:
            tell(f"notifications are signed with {submission.notify_secret}, shown here alone")
        warn_if_unserved(engine, submission.job, settings)
        if wait:
            watch_job(engine, submission.job)
            finish(read_job(engine, submission.job), fail_on_error=fail_on_error)


def _submit(
    engine: Engine, sources: list[str], reading: Reading, order: Order, intake: Intake
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
        raise RefusedError(
            f"{error}\n`--on-invalid skip` leaves such lines out, `--on-invalid record` keeps "
            "their positions, and `--dry-run` counts them."
        ) from error
    finally:
        _tell_findings(reading, intake)


def _tell_findings(reading: Reading, intake: Intake) -> None:
    """What is not in the job, and why."""
    from producer.submit.check import OnInvalid

    for line in reading.left_out.lines():
        tell(line)
    findings = intake.findings
    if findings.refused:
        lines = findings.refused.total()
        done = "skipped" if intake.on_invalid is OnInvalid.skip else "recorded as failed"
        what = "1 line" if lines == 1 else f"{lines:,} lines"
        first = " The first:" if lines > len(findings.reports) else ""
        tell("\n".join([f"{what} {done}.{first}", *findings.reports]))
    if findings.duplicates:
        tell(f"{_images(findings.duplicates)} left out: their URIs have come before")


def _report(  # noqa: PLR0913  (what the options say)
    settings: Settings,
    sources: list[str],
    reading: Reading,
    order: Order,
    intake: Intake,
    *,
    as_json: bool,
) -> None:
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
    if report.is_refused:
        tell("this would submit nothing: lines are refused, and --on-invalid is stop")
        raise typer.Exit(UsageError.exit_code)


def _forecast(settings: Settings, report: Report, queue: str) -> Forecast | None:
    """None where the database does not answer: the sources are known all the same."""
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
