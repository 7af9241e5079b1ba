"""The user's own ids stay with their images, whatever else is in the database."""

from __future__ import annotations

from collections.abc import Sequence

from celery import Celery
from sqlalchemy import Engine

from contract.settings import Settings
from producer.dispatcher.publish import publish
from producer.submit.submission import submit
from tests.integration.dispatching import add_worker, claim_as, waiting

Images = Sequence[tuple[str, str | None]]


def images_of(job: str, number: int, *, named: bool = True) -> Images:
    return [
        (f"https://a.example/{job}/{n}.jpg", f"{job}-{n}" if named else None) for n in range(number)
    ]


def test_each_claim_has_the_ids_of_its_own_images(
    engine: Engine, app: Celery, settings: Settings
) -> None:
    """Jobs and chunks of different lengths share one database. One job has no ids."""
    settings = settings.model_copy(update={"chunk_images": 4})
    jobs = {
        submit(engine, images, settings=settings): images
        for images in (
            images_of("a", 1),
            images_of("b", 13),
            images_of("c", 7, named=False),
            images_of("d", 20),
        )
    }
    add_worker(engine, "w", images_per_s=1000.0)
    publish(engine, app, settings)

    claimed: dict[str, dict[int, tuple[str, str | None]]] = {job: {} for job in jobs}
    for sent in waiting(app):
        claim = claim_as(engine, "w", sent.message)
        assert claim is not None
        claimed[sent.message.job] |= {
            position: (image.uri, image.ref) for position, image in claim.images.items()
        }
    assert claimed == {job: dict(enumerate(images)) for job, images in jobs.items()}
