"""Counts a job's images by their top class: `status --classes`.

Workers add classes to their tallies, and the dispatcher adds these up in `class_counts`, like the
job's other counts. One SQL statement, thus one snapshot, reads both. If their sum is not the number
of classified images, an older program has stored or added up some of them. Then the results are
counted, which takes longer and is just as exact.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Integer, func, null, select, type_coerce, union_all

from contract.database.tables import class_counts, jobs, labels, results, tallies

Key = tuple[int, int]
"""Model number and class id."""


@dataclass(frozen=True, kw_only=True)
class ClassCount:
    label: str | None
    class_id: int
    images: int
    share: float
    """Share of the job's classified images, 0 to 1."""


def count_classes(
    connection: Connection, job_number: int, most: int | None = None
) -> list[ClassCount]:
    """A job's classes, the most frequent first; at most `most` of them."""
    counts, classified = _kept(connection, job_number)
    if counts.total() != classified:
        counts = _counted(connection, job_number)
    total = max(1, counts.total())
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]
    names = _labels(connection, {model for (model, _), _ in ordered})
    return [
        ClassCount(label=names.get(key), class_id=key[1], images=images, share=images / total)
        for key, images in ordered
    ]


def as_json(classes: list[ClassCount]) -> list[dict[str, Any]]:
    """The object that `--classes --json` prints."""
    return [
        {
            "label": one.label,
            "class_id": one.class_id,
            "images": one.images,
            "share": round(one.share, 6),
        }
        for one in classes
    ]


def _kept(connection: Connection, job_number: int) -> tuple[Counter[Key], int]:
    """Counts from `class_counts` and tallies, and the number of classified images."""
    nothing = type_coerce(null(), Integer)
    in_tallies = select(
        nothing.label("model_number"),
        nothing.label("class_id"),
        tallies.c.classified.label("images"),
        tallies.c.classes,
    ).where(tallies.c.job_number == job_number)
    no_classes = type_coerce(null(), tallies.c.classes.type)
    folded = select(
        class_counts.c.model_number, class_counts.c.class_id, class_counts.c.images, no_classes
    ).where(class_counts.c.job_number == job_number)
    of_job = select(nothing, nothing, jobs.c.classified, no_classes).where(
        jobs.c.number == job_number
    )
    counts, classified = Counter[Key](), 0
    for row in connection.execute(union_all(in_tallies, folded, of_job)):
        if row.model_number is not None:
            counts[row.model_number, row.class_id] += row.images
            continue
        classified += row.images
        for model, images_of in (row.classes or {}).items():
            for class_id, images in images_of.items():
                counts[int(model), int(class_id)] += images
    return counts, classified


def _counted(connection: Connection, job_number: int) -> Counter[Key]:
    rows = connection.execute(
        select(results.c.model_number, results.c.class_1, func.count())
        .where(results.c.job_number == job_number, results.c.class_1.is_not(None))
        .group_by(results.c.model_number, results.c.class_1)
    )
    return Counter({(model, class_id): images for model, class_id, images in rows})


def _labels(connection: Connection, models: set[int]) -> dict[Key, str]:
    rows = connection.execute(select(labels).where(labels.c.model_number.in_(models)))
    return {(row.model_number, row.class_id): row.label for row in rows}
