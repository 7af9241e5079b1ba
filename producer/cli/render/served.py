"""`resnextq workers` and `resnextq models`, for people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from producer.cli.render.words import words
from producer.jobs.served import Model, Worker


def render_workers(found: Sequence[Worker]) -> RenderableType:
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("worker", overflow="fold")
    table.add_column("queue", overflow="fold")
    table.add_column("device", overflow="fold")
    table.add_column("images/s", justify="right", no_wrap=True)
    table.add_column("started (UTC)", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for worker in found:
        table.add_row(
            words(worker.name),
            words(worker.queue),
            words(f"{worker.device}, {worker.precision}"),
            f"{worker.images_per_s:,.1f}",
            f"{worker.started_at.astimezone(UTC):%Y-%m-%d %H:%M}",
            words("stopping", "yellow") if worker.stopping else words("at work", "green"),
        )
    return table


def render_models(found: Sequence[Model]) -> RenderableType:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("model", "weights", "precision"):
        table.add_column(name, overflow="fold")
    table.add_column("workers", justify="right", no_wrap=True)
    for model in found:
        served = Text(str(model.workers), "green" if model.workers else "yellow")
        table.add_row(words(model.model), words(model.weights), words(model.precision), served)
    return table
