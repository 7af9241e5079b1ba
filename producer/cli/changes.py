"""The commands that change jobs: cancel, pause, resume, edit. Registered by `producer.cli.main`."""

# ruff: noqa: PLC0415  (a command imports what it needs when it runs, see `main`)

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from contract.errors import JobStateError, UsageError
from producer.cli import completion
from producer.cli.environment import open_database, read_job, read_settings
from producer.cli.options import JobArgument
from producer.cli.output import tell

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from producer.jobs.job import Job

JobsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="JOB",
        help="Jobs: ids, the first characters of ids, names, or `last`.",
        autocompletion=completion.jobs,
    ),
]


def cancel(jobs: JobsArgument) -> None:
    """Cancel jobs. Results are kept; the other images get the error code `cancelled`.

    Workers finish the chunks that they are running. A job that has ended cannot be cancelled.

    Settings: RESNEXT_DATABASE_URL.

    Example: resnextq cancel 0b5f0c6a
    """
    from producer.jobs.cancel import cancel as stop

    def told(job: Job) -> str:
        return "is cancelled" + (
            f"; {job.pending:,} of {job.total:,} images were not done" if job.pending else ""
        )

    _each(jobs, stop, told)


def pause(jobs: JobsArgument) -> None:
    """Pause jobs: workers finish what they are running, and get no more until `resume`.

    Settings: RESNEXT_DATABASE_URL.

    Example: resnextq pause 0b5f0c6a
    """
    from producer.jobs.change import pause as stop

    _each(jobs, stop, lambda job: f"is paused; to continue: resnextq resume {job.id}")


def resume(jobs: JobsArgument) -> None:
    """Resume paused jobs.

    Settings: RESNEXT_DATABASE_URL.

    Example: resnextq resume 0b5f0c6a
    """
    from producer.jobs.change import resume as go_on

    _each(jobs, go_on, lambda _: "is running again")


def edit(
    job: JobArgument,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="A new name; empty removes it.")
    ] = None,
    priority: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=-1000,
            max=1000,
            help="Higher runs sooner: each step doubles the job's share.",
            show_default=False,
        ),
    ] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Add or change a tag; may be repeated."),
    ] = None,
    untag: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Remove a tag; may be repeated."),
    ] = None,
) -> None:
    """Change the name, priority or tags of a job.

    Settings: RESNEXT_DATABASE_URL.

    Example: resnextq edit 0b5f0c6a --priority 3 --tag team=search
    """
    from producer.jobs.change import edit as change
    from producer.submit.options import read_tags

    if name is None and priority is None and not tag and not untag:
        raise UsageError("Say what to change: --name, --priority, --tag or --untag.")
    tags = read_tags(tag or [])
    with open_database(read_settings()) as engine:
        changed = change(engine, job, name=name, priority=priority, tags=tags, untag=untag or ())
    shown = ", ".join(f"{key}={value}" for key, value in changed.tags.items()) or "none"
    named = changed.name or "none"
    tell(f"job {changed.id}: name {named}, priority {changed.priority}, tags {shown}")


def _each(
    jobs: list[str], change: Callable[[Engine, str], Job], told: Callable[[Job], str]
) -> None:
    """Changes all jobs that it can. The exit status is that of the last one that it could not."""
    status = 0
    with open_database(read_settings()) as engine:
        found = [read_job(engine, job) for job in jobs]  # all, before the first is changed
        for job in found:
            try:
                changed = change(engine, job.id)
            except JobStateError as error:
                tell(str(error))
                status = error.exit_code
            else:
                tell(f"job {changed.id} {told(changed)}")
    if status:
        raise typer.Exit(status)
