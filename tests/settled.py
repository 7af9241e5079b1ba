"""Jobs whose images already have answers. They are written straight into SQL, without a worker."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any

from PIL import Image
from sqlalchemy import Connection, Engine, func, insert, select, update

from contract.database.tables import (
    TOP,
    class_counts,
    job_tags,
    jobs,
    labels,
    models,
    results,
    thumbnails,
)

LABELS = (
    "tabby", "espresso", "school bus", "golden retriever", "monarch", "lighthouse", "acorn",
    "academic gown, academic robe, judge's robe", "volcano", "teapot", "sea slug", "pretzel",
    "jellyfish", "beacon", "pizza",
)  # fmt: skip
QUEUE = "resnext101_32x4d.nvidia.amp"


@dataclass(frozen=True, kw_only=True)
class Answers:
    """How the images of a job were answered."""

    total: int = 12
    settled: int | None = None
    """None: all images."""
    failed: Sequence[int] = ()
    """Positions of the failed images."""
    codes: Sequence[str] = ("http_404", "timeout", "not_an_image")
    pictures: int = 500
    """The number of thumbnails, evenly spread over the job."""
    name: str | None = "pets"
    state: str | None = None
    """None: completed if all images are settled, otherwise running."""
    tags: Mapping[str, str] = field(default_factory=dict)
    text: str | None = None
    """If given, the text stands everywhere that a stranger could write to."""
    labels: Sequence[str] = LABELS
    seconds: float = 60.0
    seed: int = 1


def make_job(engine: Engine, wanted: Answers | None = None) -> str:
    """Writes the job, and returns its id."""
    wanted = wanted or Answers()
    with engine.begin() as connection:
        return _Job(connection, wanted).make()


class _Job:
    def __init__(self, connection: Connection, wanted: Answers) -> None:
        self._connection = connection
        self._wanted = wanted
        self._random = random.Random(wanted.seed)
        self._start = datetime.now(UTC) - timedelta(seconds=wanted.seconds + 600)
        self._failed = set(wanted.failed)
        self._errors: Counter[str] = Counter()
        self._classes: Counter[int] = Counter()

    def make(self) -> str:
        wanted = self._wanted
        settled = wanted.total if wanted.settled is None else wanted.settled
        state = wanted.state or ("completed" if settled == wanted.total else "running")
        job_id = f"{(self._connection.scalar(select(func.max(jobs.c.number))) or 0) + 1:016x}"
        ended = None if state == "running" else self._start + timedelta(seconds=wanted.seconds)
        number = self._connection.execute(
            insert(jobs).values(
                id=job_id, owner=wanted.text or "ann", name=wanted.text or wanted.name, priority=0,
                state=state, model=wanted.text or "resnext101_32x4d",
                weights=wanted.text or "nvidia", weights_sha256="ab" * 32, precision="amp",
                queue=wanted.text or QUEUE, created_at=self._start, finished_at=ended,
                total=wanted.total, classified=0, failed=0, errors={}, key=wanted.text,
                images_per_s=settled / wanted.seconds if state == "running" else 0.0,
            ).returning(jobs.c.number)
        ).scalar_one()  # fmt: skip
        tags = {wanted.text: wanted.text} if wanted.text else wanted.tags
        for key, value in tags.items():
            row = {"job_number": number, "key": key, "value": value}
            self._connection.execute(insert(job_tags).values(row))
        self._fill(number, settled)
        return job_id

    def _fill(self, number: int, settled: int) -> None:
        model = self._model()
        for start in range(0, settled, 5_000):
            stop = min(settled, start + 5_000)
            rows = [self._row(number, model, position) for position in range(start, stop)]
            self._connection.execute(insert(results), rows)
        counts = {
            "classified": self._classes.total(),
            "failed": self._errors.total(),
            "errors": dict(self._errors),
        }
        self._connection.execute(update(jobs).where(jobs.c.number == number).values(**counts))
        for class_id, images in self._classes.items():
            row = {"job_number": number, "model_number": model, "class_id": class_id}
            self._connection.execute(insert(class_counts).values(row | {"images": images}))
        self._add_pictures(number, settled)

    def _model(self) -> int:
        wanted = self._wanted
        name = wanted.text or "resnext101_32x4d"
        weights = wanted.text or "nvidia"
        found = self._connection.scalar(
            select(models.c.number).where(models.c.model == name, models.c.weights == weights)
        )
        if found is not None:
            return int(found)
        number: int = self._connection.execute(
            insert(models)
            .values(
                title=wanted.text or f"{name}/{weights}", model=name, weights=weights,
                weights_sha256="ab" * 32,
            )
            .returning(models.c.number)
        ).scalar_one()  # fmt: skip
        names = [wanted.text] * len(wanted.labels) if wanted.text else wanted.labels
        rows = [
            {"model_number": number, "class_id": n, "label": one} for n, one in enumerate(names)
        ]
        self._connection.execute(insert(labels), rows)
        return number

    def _row(self, number: int, model: int, position: int) -> dict[str, Any]:
        wanted = self._wanted
        done = position // 64 * 64 / max(1, wanted.total)
        after = timedelta(seconds=wanted.seconds * (0.95 * done + 0.05 * self._random.random()))
        host = self._random.choice(("img", "cdn", "static"))
        row: dict[str, Any] = dict.fromkeys(column.name for column in results.c) | {
            "job_number": number, "position": position, "attempts": 1,
            "uri": wanted.text or f"https://{host}.example.org/{position:06d}.jpg",
            "ref": wanted.text or (f"item-{position}" if position % 3 == 0 else None),
            "settled_at": self._start + after, "worker": wanted.text or "node-1:77:3f2a",
        }  # fmt: skip
        if position in self._failed:
            code = wanted.text or wanted.codes[position % len(wanted.codes)]
            self._errors[code] += 1
            detail = wanted.text or "status 404, as the server says"
            return row | {"error_code": code, "error_detail": detail}
        return row | self._answer(model, position)

    def _answer(self, model: int, position: int) -> dict[str, Any]:
        wanted, count = self._wanted, len(self._wanted.labels)
        weights = [1 / (n + 1) for n in range(count)]
        best = self._random.choices(range(count), weights)[0]
        self._classes[best] += 1
        others = self._random.sample([n for n in range(count) if n != best], TOP - 1)
        scores = sorted((self._random.random() ** 3 for _ in range(TOP)), reverse=True)
        total = sum(scores) + 0.05
        ranks: dict[str, float] = {f"class_{n + 1}": one for n, one in enumerate([best, *others])}
        ranks |= {f"score_{n + 1}": one / total for n, one in enumerate(scores)}
        redirected = f"https://cdn.example.org/moved/{position}" if position % 7 == 0 else None
        return ranks | {
            "bytes": 123_456, "sha256": "cd" * 32, "format": (wanted.text and "X") or "JPEG",
            "width": 1024, "height": 768, "model_number": model, "precision": "bf16",
            "orientation": "ignore", "final_uri": wanted.text or redirected,
        }  # fmt: skip

    def _add_pictures(self, number: int, settled: int) -> None:
        wanted = self._wanted
        if not wanted.pictures:
            return
        step = max(1, wanted.total // wanted.pictures)
        rows = [
            {
                "job_number": number, "position": position, "class_id": None,
                "created_at": self._start, "jpeg": picture(self._random),
            }
            for position in range(0, settled, step)
            if position not in self._failed
        ]  # fmt: skip
        if rows:
            self._connection.execute(insert(thumbnails), rows)


def picture(source: random.Random | None = None, size: int = 128) -> bytes:
    """Returns a JPEG of four colours that blend into each other."""
    source = source or random.Random(1)
    corners = bytes(source.randrange(256) for _ in range(12))
    image = Image.frombytes("RGB", (2, 2), corners).resize((size, size), Image.Resampling.BICUBIC)
    with BytesIO() as file:
        image.save(file, "JPEG", quality=70)
        return file.getvalue()
