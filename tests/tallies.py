"""Writes tallies as workers do."""

from __future__ import annotations

from sqlalchemy import Engine, insert

from contract.database.tables import tallies


def tally(engine: Engine, job: int, classified: int = 0, **errors: int) -> None:
    """Adds a tally, as a worker does for each chunk that it stores."""
    with engine.begin() as connection:
        connection.execute(
            insert(tallies).values(
                job_number=job, classified=classified, failed=sum(errors.values()), errors=errors
            )
        )
