"""The rows of the table: which fault, how often, and how long a recovery may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.chaos.faults import (
    disk,
    dispatchers,
    jobs,
    messages,
    poison,
    postgres,
    producers,
    redis,
    workers,
)
from tests.chaos.stack import DEFAULT_LEASE_S, Database
from tests.chaos.trial import Fault

BOTH: Final[tuple[Database, ...]] = ("postgresql", "sqlite")
POSTGRESQL: Final[tuple[Database, ...]] = ("postgresql",)


@dataclass(frozen=True, kw_only=True)
class Row:
    name: str
    what: str
    """The fault, as the table shows it."""
    fault: Fault
    times: int
    within_s: float | None = None
    """The longest allowed recovery; None: the row ends once every image has its row."""
    databases: tuple[Database, ...] = BOTH
    few: int = 1
    """How often in `make test`; 0: left out, because another test covers it."""
    small_disk: bool = False
    """Whether the database is on a small file system of its own."""
    stack: Mapping[str, Any] = field(default_factory=dict)
    """Options of `installed` that differ from the defaults."""


# Until a dead worker's chunks are published again, as promised for the default lease.
OUT_AGAIN_S: Final = 30.0
# Until workers take chunks again, once Redis or the network is back.
GOES_ON_S: Final = 15.0
TAKES_OVER_S: Final = 10.0
# The dispatcher checks twice a second for expired leases.
LOOK_S: Final = 1.0

# "life" in a comment is tests/integration/test_life.py, which runs its lives on both databases.
ROWS: Final = (
    Row(
        name="kill-worker",
        what="kill -9 a worker: its main process, a loader, the whole group, in turns",
        fault=workers.kill,
        times=50,
        within_s=OUT_AGAIN_S,
        few=3,
    ),
    Row(
        name="kill-worker-default-lease",
        what=f"kill -9 a worker's whole group, at the default lease of {DEFAULT_LEASE_S:.0f} s",
        fault=workers.kill_at_default_lease,
        times=1,
        few=0,  # `kill-worker` covers it, with a short lease
        within_s=DEFAULT_LEASE_S + LOOK_S,
        stack={"lease_s": DEFAULT_LEASE_S},
    ),
    Row(
        name="kill-redis",
        what="kill -9 Redis, which keeps its append-only file",
        fault=redis.kill_with_file,
        times=10,
        within_s=GOES_ON_S,
    ),
    Row(
        name="kill-redis-without-file",
        what="kill -9 Redis, which comes back empty",
        fault=redis.kill_without_file,
        times=10,
        within_s=GOES_ON_S,
    ),
    Row(
        name="flush-redis",
        what="FLUSHALL empties Redis",
        fault=redis.flush,
        times=10,
        within_s=GOES_ON_S,
    ),
    Row(
        name="stop-redis",
        what="Redis stops (SIGSTOP) for 60 s",
        fault=redis.stand_still,
        times=5,
        within_s=GOES_ON_S,
    ),
    Row(
        name="cut-redis",
        what="no packet reaches Redis for 20 s, and old connections stay half open",
        fault=redis.cut_off,
        times=5,
        within_s=GOES_ON_S,
        stack={"proxied": True},
    ),
    Row(
        name="kill-postgresql",
        what="kill -9 PostgreSQL",
        fault=postgres.kill,
        times=10,
        databases=POSTGRESQL,
        within_s=OUT_AGAIN_S,
    ),
    Row(
        name="postgresql-away",
        what="kill -9 PostgreSQL, and start it after 60 s",
        fault=postgres.stay_away,
        times=3,
        databases=POSTGRESQL,
        within_s=OUT_AGAIN_S,
    ),
    Row(
        name="disk-full",
        what="the disk of the database is full",
        fault=disk.fill,
        times=3,
        within_s=OUT_AGAIN_S,
        small_disk=True,
    ),
    Row(
        name="messages-twice",
        what="every message is delivered twice",
        fault=messages.twice,
        times=5,
        few=0,  # `messages-ten-times` delivers each message twice as well
    ),
    Row(
        name="messages-ten-times",
        what="every message is delivered 10 times at once, to 2 workers",
        fault=messages.ten_times_at_once,
        times=5,
    ),
    Row(
        name="kill-producer",
        what="kill -9 a submit, and repeat it with the same key",
        fault=producers.kill,
        times=20,
        few=2,
    ),
    Row(
        name="kill-dispatcher",
        what="kill -9 the leading dispatcher",
        fault=dispatchers.kill,
        times=20,
        within_s=TAKES_OVER_S,
    ),
    Row(
        name="loader-crashes",
        what="an image crashes its loader",
        fault=poison.crash,
        times=20,
        few=2,
    ),
    Row(
        name="loader-without-memory",
        what="an image exhausts its loader's memory",
        fault=poison.exhaust_memory,
        times=20,
        few=2,
    ),
    Row(
        name="worker-dies",
        what="an image crashes the whole worker",
        fault=poison.kill_workers,
        times=20,
    ),
    Row(
        name="nothing-but-poison",
        what="all images of a chunk do one of these three",
        fault=poison.nothing_but_poison,
        times=20,
    ),
    Row(
        name="innocent",
        what="kill -9 each worker that runs one harmless chunk",
        fault=poison.kill_innocent,
        times=50,
        few=0,  # life: no image kills its worker
    ),
    Row(
        name="freeze-worker",
        what="a worker stops (SIGSTOP) for longer than its lease, then continues",
        fault=workers.freeze,
        times=10,
        within_s=OUT_AGAIN_S,
    ),
    Row(
        name="old-file",
        what="Redis starts with an old append-only file",
        fault=redis.put_back_old_file,
        times=10,
        within_s=GOES_ON_S,
        few=0,  # life: a message comes late, or again; also `kill-redis`
    ),
    Row(
        name="steal",
        what="a message is taken from the queue and never run",
        fault=redis.steal,
        times=10,
        within_s=OUT_AGAIN_S,
        few=0,  # life: messages are lost; also `flush-redis`
    ),
    Row(
        name="change-jobs",
        what="jobs are cancelled, retried and hurried during such faults",
        fault=jobs.change,
        times=20,
        few=3,
    ),
)  # fmt: skip
