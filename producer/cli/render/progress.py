"""Progress bars of long commands, on standard error, where somebody looks at it.

`counting` for a submit, whose length is not known; `watching` for a job until it is finished.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from producer.jobs.job import Job

POLL_S: Final = 0.5


class _Rate(ProgressColumn):
    """Images a second since the beginning."""

    def render(self, task: Task) -> Text:
        rate = task.completed / task.elapsed if task.elapsed else 0.0
        return Text(f"{rate:,.0f} images/s", style="cyan")


def count_of(label: str, console: Console, *, disable: bool) -> Progress:
    """A count of images with their rate; whoever asks for it starts and stops it."""
    return Progress(
        SpinnerColumn(),
        TextColumn(label),
        TextColumn("{task.completed:,.0f} images"),
        _Rate(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        redirect_stdout=False,  # lines go where they are meant to
        disable=disable,
    )


@contextmanager
def counting(label: str) -> Iterator[Callable[[int], None]]:
    """Gives a function that is told of each few more images."""
    console = Console(stderr=True)
    with count_of(label, console, disable=not console.is_terminal) as progress:
        task = progress.add_task(label, total=None)
        yield lambda images: progress.advance(task, images)


@contextmanager
def exporting(total: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """Gives a function that is told of each few more of `total` positions."""
    console = Console(stderr=True)
    with Progress(
        TextColumn("exporting"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        redirect_stdout=False,
        disable=not (shown and console.is_terminal),
    ) as progress:
        task = progress.add_task("", total=total)
        yield lambda positions: progress.advance(task, positions)


def poll(read: Callable[[], Job]) -> Iterator[Job]:
    """The job again and again, until it is finished."""
    while True:
        job = read()
        yield job
        if job.is_finished:
            return
        time.sleep(POLL_S)


def watching(read: Callable[[], Job]) -> Job:
    """Shows a job's progress until it is finished; the job as it is then."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TextColumn("[cyan]{task.fields[rate]}"),
        TextColumn("{task.fields[left]}"),
        console=Console(stderr=True),
        transient=True,
        disable=not Console(stderr=True).is_terminal,
    ) as progress:
        task = progress.add_task("", total=None, rate="", left="")
        for job in poll(read):
            progress.update(
                task,
                description=f"job {job.id}",
                completed=job.total - job.pending,
                total=job.total or None,
                rate=f"{job.images_per_s:,.1f} images/s",
                left=f"{job.failed:,} failed, {time_left(job)}",
            )
    return job


def time_left(job: Job) -> str:
    """For people: `4 min left`, or the state of a job that has ended."""
    if not job.is_live:
        return job.state
    if job.eta_s is None:
        return "time left unknown"
    return f"{span(job.eta_s)} left"


def span(seconds: float) -> str:
    """A time as people say it, rounded: `42 s`, `7 min`, `3.5 h`, `12 days`."""
    if seconds < 100:  # noqa: PLR2004  (until minutes tell enough)
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 100 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.0f} days"
