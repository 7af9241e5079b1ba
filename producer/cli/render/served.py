"""`resnextq workers` and `resnextq models`, for people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from typing import Final

from rich.console import RenderableType
from rich.text import Text

from producer.cli.render.fitted import Column, Fitted
from producer.cli.render.words import words
from producer.jobs.served import Model, Worker

NAME_CELLS: Final = 16
DEVICE_CELLS: Final = 12
"""Widths to which long texts shrink before columns are left out."""


def render_workers(found: Sequence[Worker]) -> RenderableType:
    """A table of workers. On a narrow terminal the time is left out first, then the device, then
    the state.
    """
    return Fitted(
        [
            Column("worker", [words(one.name) for one in found], least=NAME_CELLS),
            Column("queue", [words(one.queue) for one in found], least=NAME_CELLS),
            Column(
                "device",
                [words(f"{one.device}, {one.precision}") for one in found],
                least=DEVICE_CELLS,
                dropped=2,
            ),
            Column(
                "images/s", [Text(f"{one.images_per_s:,.1f}") for one in found], justify="right"
            ),
            Column(
                "started (UTC)",
                [Text(f"{one.started_at.astimezone(UTC):%Y-%m-%d %H:%M}") for one in found],
                dropped=3,
            ),
            Column(
                "state",
                [
                    words("stopping", "yellow") if one.stopping else words("at work", "green")
                    for one in found
                ],
                dropped=1,
            ),
        ]
    )


def render_models(found: Sequence[Model]) -> RenderableType:
    return Fitted(
        [
            Column("model", [words(one.model) for one in found], least=NAME_CELLS),
            Column("weights", [words(one.weights) for one in found], least=DEVICE_CELLS),
            Column("precision", [words(one.precision) for one in found], dropped=1),
            Column(
                "workers",
                [Text(str(one.workers), "green" if one.workers else "yellow") for one in found],
                justify="right",
            ),
        ]
    )
