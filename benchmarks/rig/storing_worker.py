"""Stores results of one job, for `benchmarks.system.retention`.

    python -m benchmarks.rig.storing_worker URL JOB_NUMBER IMAGES_S

It stores at this rate, or as fast as it can if that is slower; 0: as fast as it can. Each
transaction writes a chunk of 64 images, its rows and its tally, with a real worker's statements.
Once a second it prints how many images it has stored so far, and that second's longest transaction
in milliseconds, including the wait for it.
"""

from __future__ import annotations

import sys
import time
from itertools import count

from sqlalchemy import Connection, insert

from benchmarks.rig.child import say
from contract.chunks.fence import Fence
from contract.chunks.results import NO_ANSWER, ResultRow
from contract.chunks.run import Left, store
from contract.chunks.state import ChunkState
from contract.database.clock import db_now
from contract.database.engine import make_engine
from contract.database.tables import chunks
from contract.remaining import all_of

IMAGES = 64
WORKER = "storing"
# A real worker holds more chunks, so it makes up for a short wait.
CATCH_UP_S = 1.0
FETCHED = (None, 48_213, "a3f8c1e09b7d4652" * 4, "JPEG", 640, 480)


def main() -> None:
    engine, job, images_s = make_engine(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    began, longest_s = time.monotonic(), 0.0
    due = began
    for chunk in count():
        if images_s:
            due = max(due + IMAGES / images_s, time.monotonic() - CATCH_UP_S)
            time.sleep(max(0.0, due - time.monotonic()))
        at = time.monotonic()
        with engine.begin() as connection:
            store_chunk(connection, job, chunk)
        now = time.monotonic()
        longest_s = max(longest_s, now - at)
        if now - began >= 1.0:
            images = IMAGES * (chunk + 1)
            say({"at": now, "images": images, "longest_ms": 1000 * longest_s})
            began, longest_s = now, 0.0


def store_chunk(connection: Connection, job: int, chunk: int) -> None:
    connection.execute(
        insert(chunks).values(
            job_number=job, chunk=chunk, first_position=IMAGES * chunk, images=IMAGES, shuffle=0,
            state=ChunkState.RUNNING, generation=1, attempt=1, deaths=0, due_at=db_now(),
            worker=WORKER, remaining=all_of(IMAGES), remaining_images=IMAGES,
        )
    )  # fmt: skip
    rows: list[ResultRow] = [
        (
            job, IMAGES * chunk + n, f"https://images.example/{chunk}/{n}/a3f8c1e09b7d4652.jpg",
            None, 1, WORKER, "timeout", "no answer", *FETCHED, *NO_ANSWER,
        )
        for n in range(IMAGES)
    ]  # fmt: skip
    store(
        connection,
        Fence(job, chunk, 1),
        WORKER,
        before=range(IMAGES),
        left=Left(attempt=1),
        rows=rows,
        errors={"timeout": IMAGES},
    )


if __name__ == "__main__":
    main()
