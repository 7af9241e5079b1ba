"""Which run of which chunk a statement may change.

Publishing raises a chunk's generation. A worker that held the chunk in an earlier generation can
no longer change it, however late it stores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, bindparam, case

from contract.chunks.state import ChunkState
from contract.database.tables import chunk_uris, chunks


@dataclass(frozen=True)
class Fence:
    """A chunk in one generation."""

    job_number: int
    chunk: int
    generation: int

    def parameters(self, worker: str | None = None) -> dict[str, Any]:
        """The parameters for `IN_GENERATION` and, with a worker, for `HELD`."""
        fence = {
            "the_job": self.job_number,
            "the_chunk": self.chunk,
            "the_generation": self.generation,
        }
        return fence if worker is None else fence | {"the_worker": worker}


OF_CHUNK: Final = (
    chunks.c.job_number == bindparam("the_job"),
    chunks.c.chunk == bindparam("the_chunk"),
)
ITS_URIS: Final = (chunk_uris.c.job_number == chunks.c.job_number) & (
    chunk_uris.c.chunk == chunks.c.chunk
)
"""Joins a chunk with its URIs."""
IN_GENERATION: Final = (*OF_CHUNK, chunks.c.generation == bindparam("the_generation"))
HELD: Final = (
    *IN_GENERATION,
    chunks.c.state == ChunkState.RUNNING,
    chunks.c.worker == bindparam("the_worker"),
)
"""True if this worker runs the chunk in this generation."""

GIVEN_BACK: Final[ColumnElement[int]] = case((chunks.c.attempt > 0, chunks.c.attempt - 1), else_=0)
"""The attempt after an interrupted run, which does not count for its images."""
