"""Progress bars of long commands, on standard error if that is a terminal.

`counting` is for a submit, whose length is unknown. `watch` shows a job's progress.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
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

from contract.terminal import make_console


class _Counted(ProgressColumn):
    """Completed units and, where it is known, their total."""

    def render(self, task: Task) -> Text:
        of = "" if task.total is None else f"/{task.total:,.0f}"
        return Text(f"{task.completed:,.0f}{of}", style="progress.download")


class _Rate(ProgressColumn):
    """Images, or other units, per second since the beginning."""

    def __init__(self, unit: str = "images") -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        rate = task.completed / task.elapsed if task.elapsed else 0.0
        return Text(f"{rate:,.0f} {self._unit}/s", style="cyan")


def count_of(label: str, console: Console, *, disable: bool) -> Progress:
    """A count of images with their rate. The caller starts and stops it."""
    return Progress(
        SpinnerColumn("line" if console.options.ascii_only else "dots"),
        TextColumn(label),
        TextColumn("{task.completed:,.0f} images"),
        _Rate(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        redirect_stdout=False,  # lines must go where they are meant to
        disable=disable,
    )


@contextmanager
def counting(label: str) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the number of further images."""
    console = make_console(stderr=True)
    with count_of(label, console, disable=not console.is_terminal) as progress:
        task = progress.add_task(label, total=None)
        yield lambda images: progress.advance(task, images)


@contextmanager
def exporting(total: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the number of further positions, of `total`."""
    with measuring("exporting", total, "images", shown=shown) as advance:
        yield advance


@contextmanager
def measuring(
    label: str, total: int | None, unit: str, *, shown: bool
) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the number of further units, of `total`. None: unknown."""
    console = make_console(stderr=True)
    with Progress(
        TextColumn(label),
        BarColumn(),
        TaskProgressColumn(),
        _Counted(),
        _Rate(unit),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        redirect_stdout=False,
        disable=not (shown and console.is_terminal),
    ) as progress:
        task = progress.add_task("", total=total)
        yield lambda some: progress.advance(task, some)
