"""The states of a chunk and the moves between them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class ChunkState(StrEnum):
    PENDING = "pending"
    """The chunk waits in SQL until it is due."""
    QUEUED = "queued"
    """Redis has a message for the chunk."""
    RUNNING = "running"
    """A worker has claimed the chunk."""
    DONE = "done"
    """Each of its images has a row in `results`."""


PENDING, QUEUED, RUNNING, DONE = ChunkState


@dataclass(frozen=True, kw_only=True)
class Move:
    """A move from one state to another."""

    name: str
    by: str
    before: tuple[ChunkState, ...]
    after: tuple[ChunkState, ...]
    condition: str
    effect: str
    attempt: str
    """How the move changes the attempts of its images."""

    @property
    def row(self) -> str:
        """A line of the table in docs/chunk-life.md."""
        before = ", ".join(f"`{state}`" for state in self.before) or "-"
        after = " or ".join(f"`{state}`" for state in self.after)
        return (
            f"| {self.name} | {self.by} | {before} | {after} | {self.condition} | {self.effect} "
            f"| {self.attempt} |"
        )


HEADING: Final = (
    "| move | by | from | to | condition | effect | attempt |\n|---|---|---|---|---|---|---|"
)
MOVES: Final = (
    Move(
        name="insert",
        by="submit",
        before=(),
        after=(PENDING, DONE),
        condition="the job is being submitted",
        effect="writes the chunk and its URIs, and a row with its error code for each line that "
        "workers would refuse; `done` if they would refuse all",
        attempt="0",
    ),
    Move(
        name="publish",
        by="dispatcher",
        before=(PENDING,),
        after=(QUEUED,),
        condition="due, and the window has room",
        effect="generation + 1; commits, then sends the message to Redis",
        attempt="same",
    ),
    Move(
        name="claim",
        by="worker",
        before=(QUEUED,),
        after=(RUNNING,),
        condition="same generation; the job is running and asks for this worker's model",
        effect="writes the worker's name",
        attempt="+ 1",
    ),
    Move(
        name="refuse",
        by="worker",
        before=(RUNNING,),
        after=(PENDING,),
        condition="the job began with other weights",
        effect="makes the chunk due later, for another worker",
        attempt="- 1",
    ),
    Move(
        name="begin alone",
        by="worker",
        before=(RUNNING,),
        after=(RUNNING,),
        condition="a suspect image is the only one in flight",
        effect="records which image it is",
        attempt="same",
    ),
    Move(
        name="store",
        by="worker",
        before=(RUNNING,),
        after=(RUNNING, PENDING, DONE),
        condition="same generation and same worker",
        effect="writes results, tally and state in one transaction; `running` if images still "
        "load, `pending` if images must be tried again, `done` if no image is left",
        attempt="same for images that were tried; - 1 for the others",
    ),
    Move(
        name="put back",
        by="worker",
        before=(QUEUED, RUNNING),
        after=(PENDING, DONE),
        condition="an error in this program ended the run",
        effect="records the error; after the last attempt, writes a row with `internal` for each "
        "remaining image",
        attempt="counted",
    ),
    Move(
        name="reap",
        by="dispatcher",
        before=(RUNNING,),
        after=(PENDING,),
        condition="its worker crashed, or had no heartbeat during the lease",
        effect="deaths + 1; with two deaths the chunk is suspect: its images run one by one",
        attempt="- 1",
    ),
    Move(
        name="condemn",
        by="dispatcher",
        before=(RUNNING,),
        after=(RUNNING, DONE),
        condition="an image that ran alone has crashed its worker three times",
        effect="writes a row with `crashed` for the image",
        attempt="same",
    ),
    Move(
        name="unclaimed",
        by="dispatcher",
        before=(QUEUED,),
        after=(PENDING,),
        condition="published before the oldest message in Redis",
        effect="makes the chunk due at once",
        attempt="same",
    ),
    Move(
        name="end",
        by="dispatcher",
        before=(PENDING, QUEUED),
        after=(DONE,),
        condition="the job was cancelled or has expired",
        effect="generation + 1; writes a row with `cancelled` or `expired` for each remaining "
        "image",
        attempt="same",
    ),
    Move(
        name="retry",
        by="user",
        before=(DONE,),
        after=(PENDING,),
        condition="some of its images have failed",
        effect="deletes their rows and lowers the job's counts in the same transaction",
        attempt="0",
    ),
)
