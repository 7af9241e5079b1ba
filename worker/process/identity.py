"""A worker's name, its model, and the rows in SQL to which its results point.

`worker.main` calls `register` once at the start. Claim, store and presence take the `Identity`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from contract.broker.connection import queue_of
from contract.database.tables import labels, models
from contract.database.waits import Database
from contract.models import title_of
from contract.settings import Settings

if TYPE_CHECKING:  # torch takes seconds to load; mistakes should be reported before that
    from resnext.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A worker's name, which is new at each start, and what it classifies with."""

    worker: str
    queue: str
    device: str
    precision: str
    """The precision in which it computes: fp16, bf16 or fp32."""
    weights_sha256: str
    orientation: str
    """Whether its loaders apply the EXIF orientation: exif or ignore."""
    model_number: int


def register(
    database: Database, settings: Settings, classifier: Classifier, worker: str
) -> Identity:
    """Inserts the model and its labels, unless another worker has, and returns the identity."""
    number = database.transact(lambda connection: _register_model(connection, classifier))
    return Identity(
        worker=worker,
        queue=queue_of(settings.model, settings.weights, settings.precision),
        device=classifier.device,
        precision=classifier.precision,
        orientation=settings.orientation,
        weights_sha256=classifier.weights_sha256,
        model_number=number,
    )


def _register_model(connection: Connection, classifier: Classifier) -> int:
    """Returns the model's number. Inserts the model and its labels in one transaction."""
    model = {
        "model": classifier.model,
        "weights": Path(classifier.weights).name,
        "weights_sha256": classifier.weights_sha256,
    }
    # If several workers start at once, one inserts and the others wait for its commit.
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    number: int | None = connection.scalar(
        dialect.insert(models)
        .values(title=title_of(classifier.model, classifier.weights), **model)
        .on_conflict_do_nothing()
        .returning(models.c.number)
    )
    if number is not None:
        _insert_labels(connection, number, classifier.spec.categories)
        return number
    found: int = connection.execute(select(models.c.number).filter_by(**model)).scalar_one()
    return found


def _insert_labels(connection: Connection, number: int, categories: Sequence[str]) -> None:
    connection.execute(
        insert(labels),
        [
            {"model_number": number, "class_id": class_id, "label": label}
            for class_id, label in enumerate(categories)
        ],
    )
