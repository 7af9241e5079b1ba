"""The states of a chunk and the moves between them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class ChunkState(StrEnum):
    PENDING = "pending"
    """It waits in SQL until it is due."""
    QUEUED = "queued"
    """A message for it is in Redis."""
    RUNNING = "running"
    """A worker has claimed it."""
    DONE = "done"
    """Each of its images has a row in `results`."""


PENDING, QUEUED, RUNNING, DONE = ChunkState


@dataclass(frozen=True, kw_only=True)
class Move:
    """One way from a state to another."""

    name: str
    by: str
    before: tuple[ChunkState, ...]
    after: tuple[ChunkState, ...]
    condition: str
    effect: str
    attempt: str
    """What becomes of the attempts that its images have had."""

    @property
    def row(self) -> str:
        """A line of the table in docs/design.md."""
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
        effect="the chunk and its URIs; a row with `bad_uri` for each image whose line gave no "
        "URI, and `done` where all of them are such",
        attempt="0",
    ),
    Move(
        name="publish",
        by="dispatcher",
        before=(PENDING,),
        after=(QUEUED,),
        condition="due, and the window has room",
        effect="generation + 1; committed, then pushed to Redis",
        attempt="same",
    ),
    Move(
        name="claim",
        by="worker",
        before=(QUEUED,),
        after=(RUNNING,),
        condition="this generation; the job is running and asks for this worker's model",
        effect="the worker's name",
        attempt="+ 1",
    ),
    Move(
        name="refuse",
        by="worker",
        before=(RUNNING,),
        after=(PENDING,),
        condition="the job began with other weights",
        effect="due later, for another worker",
        attempt="- 1",
    ),
    Move(
        name="begin alone",
        by="worker",
        before=(RUNNING,),
        after=(RUNNING,),
        condition="a suspect image is the only one in flight",
        effect="notes which image it is",
        attempt="same",
    ),
    Move(
        name="store",
        by="worker",
        before=(RUNNING,),
        after=(RUNNING, PENDING, DONE),
        condition="this generation and this worker",
        effect="results, tally and state in one transaction; `running` while images still load, "
        "`pending` while images are to be tried again, `done` when none is left",
        attempt="same for images that were tried; - 1 for images that were not",
    ),
    Move(
        name="put back",
        by="worker",
        before=(QUEUED, RUNNING),
        after=(PENDING, DONE),
        condition="a fault of this program ended the run",
        effect="the fault is noted; after the last attempt each image that is left gets a row "
        "with `internal`",
        attempt="counted",
    ),
    Move(
        name="reap",
        by="dispatcher",
        before=(RUNNING,),
        after=(PENDING,),
        condition="its worker has had no heartbeat for the lease, or was seen to crash",
        effect="deaths + 1; two deaths make it suspect: its images run one by one",
        attempt="- 1",
    ),
    Move(
        name="condemn",
        by="dispatcher",
        before=(RUNNING,),
        after=(RUNNING, DONE),
        condition="an image has crashed its worker three times, alone",
        effect="the image gets a row with `crashed`",
        attempt="same",
    ),
    Move(
        name="unclaimed",
        by="dispatcher",
        before=(QUEUED,),
        after=(PENDING,),
        condition="published before the oldest message that waits in Redis",
        effect="due at once",
        attempt="same",
    ),
    Move(
        name="end",
        by="dispatcher",
        before=(PENDING, QUEUED),
        after=(DONE,),
        condition="the job was cancelled, or has expired",
        effect="generation + 1; each image that is left gets a row with `cancelled` or `expired`",
        attempt="same",
    ),
    Move(
        name="retry",
        by="user",
        before=(DONE,),
        after=(PENDING,),
        condition="images of it have failed",
        effect="their rows are deleted and the job's counts lowered in the same transaction",
        attempt="0",
    ),
)
