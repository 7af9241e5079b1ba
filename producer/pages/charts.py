"""Numbers → shapes of an SVG, which a template writes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from producer.jobs.sampled import Sample

WIDTH: Final = 600
HEIGHT: Final = 120
BUCKETS: Final = 60
# With fewer images, or in a shorter time, a rate over time means nothing.
FEWEST_IMAGES: Final = 8
SHORTEST_S: Final = 2.0
SCORE_BUCKETS: Final = 20


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Images per second over a job's life. `area` and `failed` are SVG paths."""

    start: datetime
    end: datetime
    mean: float
    most: float
    area: str
    failed: str
    width: int = WIDTH
    height: int = HEIGHT

    @property
    def first(self) -> str:
        return f"{self.start:%H:%M:%S}"

    @property
    def last(self) -> str:
        return f"{self.end:%H:%M:%S} UTC"


@dataclass(frozen=True)
class Bar:
    name: str
    share: float
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Scores:
    """Number of images by the score of their top class."""

    bars: list[Bar]
    width: int = WIDTH
    height: int = HEIGHT


def draw_pace(sample: Sample) -> Pace | None:
    """Draws the pace. None: too few images have finished."""
    times = [image.settled_at for image in sample.images]
    if len(times) < FEWEST_IMAGES:
        return None
    start, end = min(times), max(times)
    seconds = (end - start).total_seconds()
    if seconds < SHORTEST_S:
        return None
    buckets = min(BUCKETS, max(FEWEST_IMAGES, len(times) // 2))
    every, bad = [0] * buckets, [0] * buckets
    for image in sample.images:
        place = (image.settled_at - start) / timedelta(seconds=seconds)
        at = min(buckets - 1, int(place * buckets))
        every[at] += 1
        bad[at] += image.failed
    most = max(every)
    scale = sample.step * buckets / seconds
    return Pace(
        start=start,
        end=end,
        mean=len(times) * sample.step / seconds,
        most=most * scale,
        area=_steps(every, most),
        failed=_steps(bad, most),
    )


def draw_scores(sample: Sample) -> Scores | None:
    """Draws the scores. None: no image is classified yet."""
    counts = [0] * SCORE_BUCKETS
    for image in sample.images:
        if image.score is not None:
            counts[min(SCORE_BUCKETS - 1, int(image.score * SCORE_BUCKETS))] += 1
    total, most = sum(counts), max(counts)
    if not total:
        return None
    width = WIDTH / SCORE_BUCKETS
    return Scores(
        [
            Bar(
                name=f"{n / SCORE_BUCKETS:g} to {(n + 1) / SCORE_BUCKETS:g}:",
                share=images / total,
                x=round(n * width + 1, 2),
                y=round(HEIGHT - HEIGHT * images / most, 2),
                width=round(width - 2, 2),
                height=round(HEIGHT * images / most, 2),
            )
            for n, images in enumerate(counts)
        ]
    )


def _steps(counts: list[int], most: int) -> str:
    """The path of a step curve that follows the counts and returns to its start."""
    width = WIDTH / len(counts)
    parts = [f"M0 {HEIGHT}"]
    for n, images in enumerate(counts):
        height = HEIGHT - (HEIGHT - 2) * images / most
        parts.append(f"V{height:.1f}H{(n + 1) * width:.1f}")
    return "".join(parts) + f"V{HEIGHT}Z"
