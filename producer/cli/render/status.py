"""`resnextq status` and `resnextq list`: progress of jobs, for people.

`producer.jobs.job` has the same as JSON for programs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from contract.failure import describe, is_known
from producer.cli.render.fitted import Column, Fitted
from producer.cli.render.watch import STARTING, Up, is_starting, time_left
from producer.cli.render.words import words
from producer.jobs.classes import ClassCount
from producer.jobs.job import GIVEN_UP, Job
from producer.jobs.served import no_worker, start_one
from producer.jobs.span import span

STYLES: Final = {
    "submitting": "yellow",
    "running": "cyan",
    "completed": "green",
    "cancelled": "magenta",
    "expired": "magenta",
}
BAR_CHARS: Final = 40
NAME_CELLS: Final = 12
"""Width to which long names are cut before columns are left out."""
REASONS: Final = "Why images failed"
TABLE_CELLS: Final = 80
"""Width from which causes and advice stand side by side."""


def render_job(
    job: Job, served: Counter[str], up: Callable[[], Up] = lambda: None
) -> RenderableType:
    """A panel with the job and, if images failed, a table of the reasons."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    waiting = job.is_waiting(served)
    starting = is_starting(job, served, up)
    for what, value in _facts(job, served, starting=starting):
        facts.add_row(what, value)
    panel = Panel(
        facts, title=Text.assemble("job ", (job.id, "bold")), title_align="left", expand=False
    )
    parts: list[RenderableType] = [panel]
    if waiting and not starting:
        start = start_one(job.model, job.weights, job.precision)
        parts += [
            Text("Start a worker, or cancel the job and submit it with --model:"),
            _whole(start),
        ]
    if job.errors:
        parts.append(_Reasons(job))
    return Group(*parts)


def render_jobs(listed: Sequence[Job], served: Counter[str]) -> RenderableType:
    """A row for each job. On a narrow terminal times are left out first, then numbers, then
    names.
    """

    def column(title: str, of: Callable[[Job], Text | str], **more: Any) -> Column:  # noqa: ANN401
        cells = [cell if isinstance(cell := of(job), Text) else words(cell) for job in listed]
        return Column(title, cells, **more)

    columns = [
        column("job", lambda job: job.id),
        column("name", lambda job: job.name or "", least=NAME_CELLS, cut=True, dropped=1),
        column("state", lambda job: _state(job, served)),
        column("images", lambda job: f"{job.total:,}", justify="right", dropped=3),
        column("done", _share, justify="right"),
        column("failed", _failed, justify="right", dropped=2),
    ]
    for code, number in (("cancelled", 5), ("expired", 4)):
        if any(code in job.errors for job in listed):
            columns.append(
                column(code, partial(_given_up, code=code), justify="right", dropped=number)
            )
    columns.append(column("submitted (UTC)", lambda job: _minutes(job.created_at), dropped=6))
    if any(job.expires_at is not None and job.is_live for job in listed):
        columns.append(
            column(
                "expires (UTC)",
                lambda job: _minutes(job.expires_at) if job.is_live else "",
                dropped=7,
            )
        )
    return Fitted(columns)


def render_ended(listed: Sequence[Job]) -> RenderableType:
    """A row for each job that has ended. On a narrow terminal the time is left out first."""
    return Fitted(
        [
            Column("job", [words(job.id) for job in listed]),
            Column("name", [words(job.name or "") for job in listed], least=NAME_CELLS, cut=True),
            Column("state", [words(job.state, STYLES.get(job.state, "")) for job in listed]),
            Column("images", [Text(f"{job.total:,}") for job in listed], justify="right"),
            Column("ended (UTC)", [words(_minutes(job.finished_at)) for job in listed], dropped=1),
        ]
    )


def _failed(job: Job) -> Text:
    return Text(f"{job.at_fault:,}", "red" if job.at_fault else "")


def _given_up(job: Job, code: str) -> str:
    return f"{job.given_up[code]:,}" if code in job.given_up else ""


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


def _whole(command: str) -> Text:
    """A command on a line that is not broken, so that it can be copied."""
    line = words(f"  {command}", "bold")
    line.no_wrap, line.overflow = True, "ignore"
    return line


def _facts(job: Job, served: Counter[str], *, starting: bool) -> list[tuple[str, RenderableType]]:
    facts: list[tuple[str, RenderableType]] = [("name", words(job.name))] if job.name else []
    facts += [
        ("state", words(STARTING, "yellow") if starting else _state_in_full(job, served)),
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
    if job.finished_at is not None and job.took_s is not None:  # both or neither
        after = f"; ran {span(job.took_s)} in all" if job.idle_s else f", after {span(job.took_s)}"
        facts.append(("finished", f"{_seconds(job.finished_at)}{after}"))
    if job.is_live and not job.is_waiting(served):
        facts.append(("workers", words(f"{served[job.queue]} on {job.queue}")))
    facts += [
        ("fault", words(f"{chunks:,} chunks met {fault}; see the workers' logs", "yellow"))
        for fault, chunks in job.faults.items()
    ]
    return facts


def _state(job: Job, served: Counter[str]) -> Text:
    if job.paused_at is not None and job.is_live:
        return words("paused", "yellow")
    if job.is_waiting(served):
        return words("waiting", "yellow")
    return words(job.state, STYLES.get(job.state, ""))


def _state_in_full(job: Job, served: Counter[str]) -> Text:
    sentence = no_worker(job.queue, served) if job.is_waiting(served) else None
    return _state(job, served) if sentence is None else words(sentence, "yellow")


def _progress(job: Job) -> RenderableType:
    line = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=max(1, job.total), completed=job.total - job.pending, width=BAR_CHARS)
    line.add_row(bar, _share(job))
    return line


def _share(job: Job) -> str:
    """The share of finished images. It is 100% only when all are finished."""
    if not job.total:
        return "-"
    thousandths = 1000 * (job.total - job.pending) // job.total
    return f"{thousandths / 10:.1f}%"


def _counts(job: Job) -> Text:
    return Text.assemble(
        (f"{job.classified:,} classified", "green" if job.classified else ""),
        ", ",
        (f"{job.at_fault:,} failed", "red" if job.at_fault else ""),
        *((f", {images:,} {code}", "magenta") for code, images in job.given_up.items()),
        f", {job.pending:,} pending, of {job.total:,}",
    )


def _rate(job: Job) -> str:
    rate = f"{job.images_per_s:,.1f} images/s"
    return f"{rate}, {time_left(job)}" if job.is_live else rate


@dataclass(frozen=True)
class _Reasons:
    """Why images failed: a table or, on a narrow terminal, a paragraph for each code."""

    job: Job

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        yield self._table() if options.max_width >= TABLE_CELLS else self._paragraphs()

    def _table(self) -> Table:
        table = Table(title=REASONS, title_justify="left", box=None, header_style="dim")
        table.add_column("code", no_wrap=True)
        table.add_column("images", justify="right", no_wrap=True)
        rows = list(self._each())
        longest = max(len(word) for *_, advice in rows for word in advice.split())
        table.add_column("cause", overflow="fold")
        table.add_column("what to do", overflow="fold", min_width=longest)
        for code, images, cause, advice in rows:
            table.add_row(code, f"{images:,}", cause, advice)
        return table

    def _paragraphs(self) -> Group:
        lines: list[RenderableType] = [Text(REASONS, "italic")]
        for code, images, cause, advice in self._each():
            lines.append(Text.assemble(" ", code, f": {images:,}", overflow="fold"))
            texts = (Text(text, overflow="fold") for text in (cause, advice))
            lines += [Padding(text, (0, 0, 0, 3)) for text in texts]
        return Group(*lines)

    def _each(self) -> Iterator[tuple[Text, int, str, str]]:
        """Code, images, cause, advice."""
        for code, images in self.job.errors.items():
            known = describe(code) if is_known(code) else None
            yield (
                words(code, "magenta" if code in GIVEN_UP else "red"),
                images,
                known.cause if known else "This code is from a newer version.",
                known.advice if known else "Upgrade resnext-queue on this machine.",
            )


def _minutes(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}" if moment is not None else ""


def _seconds(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
