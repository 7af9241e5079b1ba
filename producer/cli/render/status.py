"""`resnextq status` and `resnextq list`: how far jobs are, for people.

For programs `producer.jobs.job` has the same as JSON.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from contract.failure import describe, is_known
from producer.cli.render.progress import span, time_left
from producer.cli.render.words import words
from producer.jobs.classes import ClassCount
from producer.jobs.job import Job, no_worker

STYLES: Final = {
    "submitting": "yellow",
    "running": "cyan",
    "completed": "green",
    "cancelled": "magenta",
    "expired": "magenta",
}
BAR_CHARS: Final = 40


def render_job(job: Job, served: Counter[str]) -> RenderableType:
    """A panel of the job and, where images failed, a table of the reasons."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    for what, value in _facts(job, served):
        facts.add_row(what, value)
    title = Text.assemble("job ", (job.id, "bold"), words(f" · {job.name}" if job.name else ""))
    panel = Panel(facts, title=title, title_align="left", expand=False)
    return Group(panel, _reasons(job)) if job.errors else panel


def render_jobs(listed: Sequence[Job]) -> RenderableType:
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("job", no_wrap=True)
    table.add_column("name", overflow="fold")
    table.add_column("state")
    for number in ("images", "done", "failed"):
        table.add_column(number, justify="right", no_wrap=True)
    table.add_column("submitted (UTC)", no_wrap=True)
    expiring = any(job.expires_at is not None and job.is_live for job in listed)
    if expiring:
        table.add_column("expires (UTC)", no_wrap=True)
    for job in listed:
        table.add_row(
            job.id,
            words(job.name or ""),
            _state(job),
            f"{job.total:,}",
            _share(job),
            Text(f"{job.failed:,}", "red" if job.failed else ""),
            _minutes(job.created_at),
            *([_minutes(job.expires_at) if job.is_live else ""] if expiring else []),
        )
    return table


def render_classes(classes: Sequence[ClassCount]) -> RenderableType:
    """A table of a job's classes, the most frequent first."""
    if not classes:
        return Text("No image is classified yet.")
    title = "Most frequent classes"
    table = Table(title=title, title_justify="left", box=None, header_style="dim")
    table.add_column("class", overflow="fold")
    table.add_column("id", justify="right", no_wrap=True)
    table.add_column("images", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    for one in classes:
        share = f"{100 * one.share:.1f}%"
        table.add_row(words(one.label or ""), str(one.class_id), f"{one.images:,}", share)
    return table


def _facts(job: Job, served: Counter[str]) -> list[tuple[str, RenderableType]]:
    facts: list[tuple[str, RenderableType]] = [
        ("state", _state(job)),
        ("images", _progress(job)),
        ("", _counts(job)),
        ("rate", _rate(job)),
        ("model", words(f"{job.model}, weights {job.weights}, precision {job.precision}")),
        ("submitted", words(f"{_seconds(job.created_at)} by {job.owner}")),
    ]
    if job.expires_at is not None and (job.is_live or job.state == "expired"):
        facts.append(("expires" if job.is_live else "expired", _seconds(job.expires_at)))
    if job.tags:
        facts.append(("tags", words(", ".join(f"{k}={v}" for k, v in job.tags.items()))))
    if job.finished_at is not None:
        took = span((job.finished_at - job.created_at).total_seconds())
        facts.append(("finished", f"{_seconds(job.finished_at)}, after {took}"))
    if job.is_live:
        facts.append(("workers", _workers(job, served)))
    facts += [
        ("fault", words(f"{chunks:,} chunks met {fault}; see the workers' logs", "yellow"))
        for fault, chunks in job.faults.items()
    ]
    return facts


def _state(job: Job) -> Text:
    if job.paused_at is not None and job.is_live:
        return words("paused", "yellow")
    return words(job.state, STYLES.get(job.state, ""))


def _progress(job: Job) -> RenderableType:
    line = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=max(1, job.total), completed=job.total - job.pending, width=BAR_CHARS)
    line.add_row(bar, _share(job))
    return line


def _share(job: Job) -> str:
    """Of its images, settled; 100% only once it is all of them."""
    if not job.total:
        return "-"
    thousandths = 1000 * (job.total - job.pending) // job.total
    return f"{thousandths / 10:.1f}%"


def _counts(job: Job) -> Text:
    return Text.assemble(
        (f"{job.classified:,} classified", "green" if job.classified else ""),
        ", ",
        (f"{job.failed:,} failed", "red" if job.failed else ""),
        f", {job.pending:,} pending, of {job.total:,}",
    )


def _rate(job: Job) -> str:
    rate = f"{job.images_per_s:,.1f} images/s"
    return f"{rate}, {time_left(job)}" if job.is_live else rate


def _workers(job: Job, served: Counter[str]) -> Text:
    warning = no_worker(job.queue, served)
    if warning is not None:
        return words(warning, "yellow")
    return words(f"{served[job.queue]} on {job.queue}")


def _reasons(job: Job) -> Table:
    table = Table(title="Why images failed", title_justify="left", box=None, header_style="dim")
    table.add_column("code", style="red", no_wrap=True)
    table.add_column("images", justify="right", no_wrap=True)
    table.add_column("cause")
    table.add_column("what to do")
    for code, images in job.errors.items():
        known = describe(code) if is_known(code) else None
        table.add_row(
            words(code),
            f"{images:,}",
            known.cause if known else "A code of a newer version.",
            known.advice if known else "Upgrade resnext-queue on this machine.",
        )
    return table


def _minutes(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}" if moment is not None else ""


def _seconds(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
