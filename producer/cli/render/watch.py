"""A job's progress until it is finished, on standard error: a changing line, or lines of a log.

`status --watch` and `submit --wait` use it. They print the result themselves.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from contract.failure import describe, is_known
from contract.terminal import make_console
from producer.cli.output import tell
from producer.cli.render.fitted import GAP, Column, fit
from producer.cli.render.words import words
from producer.jobs.job import Job
from producer.jobs.served import no_worker, start_one
from producer.jobs.span import span

POLL_S: Final = 0.5
LINE_EVERY_S: Final = 30.0
"""Seconds between two lines if standard error is not a terminal."""
BAR_CELLS: Final = range(10, 41)
Read = Callable[[], tuple[Job, Counter[str]]]
"""Returns the job and the number of live workers by queue."""
Up = tuple[str, str, str] | None
"""What `contract.served.model_of_up` returns."""
STARTING: Final = "waiting: the worker of `resnextq up` is starting"


def poll(read: Callable[[], Job]) -> Iterator[Job]:
    """Yields the job again and again, until it is finished."""
    while True:
        job = read()
        yield job
        if job.is_finished:
            return
        time.sleep(POLL_S)


def watching(
    read: Read, *, up: Callable[[], Up] = lambda: None, line_every_s: float = LINE_EVERY_S
) -> Job:
    """Shows a job's progress until it is finished. Returns the finished job."""
    console = make_console(stderr=True)
    looks = _Looks(read, up)
    if console.is_terminal:
        with Live(looks, console=console, transient=True, redirect_stdout=False) as live:
            for _ in poll(looks.look):
                live.refresh()
    else:
        for _ in poll(looks.look):
            looks.tell_now_and_then(line_every_s)
    return looks.job


def is_starting(job: Job, served: Counter[str], up: Callable[[], Up]) -> bool:
    """Whether the job waits only until the worker of `up` is ready.

    `up` is called only if the job waits: it reads a file.
    """
    return job.is_waiting(served) and up() == (job.model, job.weights, job.precision)


def waiting(job: Job, served: Counter[str], up: Callable[[], Up] = lambda: None) -> str | None:
    """Says that no worker serves the job, and what to do. None if the job need not wait."""
    if is_starting(job, served, up):
        return STARTING
    if not job.is_waiting(served):
        return None
    start = start_one(job.model, job.weights, job.precision)
    return f"{no_worker(job.queue, served)}. Start one: {start}"


def time_left(job: Job) -> str:
    """For people: `4 min left`, or the state of a job that has ended."""
    if not job.is_live:
        return job.state
    if job.eta_s is None:
        return "time left unknown"
    return f"{span(job.eta_s)} left"


def summary(job: Job) -> str:
    """The result of a finished job, and why images failed, in a few lines of text."""
    given_up = "".join(f", {images:,} {code}" for code, images in job.given_up.items())
    took = ""
    if job.took_s is not None:
        took = f", after {span(job.took_s)}"
    counts = f"{job.classified:,} classified, {job.at_fault:,} failed{given_up}, of {job.total:,}"
    lines = [f"job {job.id} is {job.state}: {counts}{took}"]
    for code, images in job.errors.items():
        cause = describe(code).cause if is_known(code) else "This code is from a newer version."
        lines.append(f"  {images:,} {code}: {cause}")
    return "\n".join(lines)


class _Looks:
    """The job at the last look, for Rich and for lines of a log."""

    def __init__(self, read: Read, up: Callable[[], Up]) -> None:
        self._read = read
        self._up = up
        self.job, self._served = read()
        self._told_at = time.monotonic()
        self._told: str | None = None

    def look(self) -> Job:
        self.job, self._served = self._read()
        return self.job

    def tell_now_and_then(self, line_every_s: float) -> None:
        """Prints a line now and then, and at once when workers go missing or come back."""
        job = self.job
        if job.is_finished:
            return
        sentence, now = waiting(job, self._served, self._up), time.monotonic()
        if sentence != self._told or now - self._told_at >= line_every_s:
            self._told, self._told_at = sentence, now
            tell(f"{'  '.join(text.plain for text, _ in _facts(job))}{_below(sentence)}")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield progress_line(self.job, options.max_width)
        sentence = waiting(self.job, self._served, self._up)
        if sentence is not None:
            yield words(sentence, "yellow")


def _below(sentence: str | None) -> str:
    return "" if sentence is None else f"\n{sentence}"


def _facts(job: Job) -> Iterator[tuple[Text, int]]:
    """Each text with its order of being left out; see `Column.dropped`."""
    done = job.total - job.pending
    failed = "".join(f", {images:,} {code}" for code, images in job.given_up.items())
    yield words(f"job {job.id}"), 3
    yield Text(f"{1000 * done // max(1, job.total) / 10:.1f}%", "magenta"), 0
    yield Text(f"{done:,}/{job.total:,}", "green"), 0
    yield Text(f"{job.images_per_s:,.1f} images/s", "cyan"), 2
    yield Text(f"{job.at_fault:,} failed{failed}", "red" if job.at_fault else ""), 0
    yield Text(time_left(job)), 0


def progress_line(job: Job, width: int) -> Table:
    """A line that fits the width. First the id is left out, then the rate, then the bar."""
    bar = Column("", [Text(" " * BAR_CELLS.start)], dropped=1)
    texts = [Column("", [text], dropped=dropped) for text, dropped in _facts(job)]
    kept = fit([texts[0], bar, *texts[1:]], width)
    table = Table.grid(padding=(0, GAP, 0, 0))
    cells: list[Text | ProgressBar] = [column.cells[0] for column in kept]
    if bar in kept:
        others = sum(column.width + GAP for column in kept if column is not bar)
        cells[kept.index(bar)] = ProgressBar(
            total=max(1, job.total),
            completed=job.total - job.pending,
            width=min(width - others, BAR_CELLS.stop - 1),
        )
    table.add_row(*cells)
    return table
