"""The rows of the table: which fault, how often, and within what time all has to go on."""

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
    """In the table."""
    fault: Fault
    times: int
    within_s: float | None = None
    """The longest that a recovery may take; None: it ends, or the row fails."""
    databases: tuple[Database, ...] = BOTH
    few: int = 1
    """How often in the shortened run."""
    small_disk: bool = False
    """The database lies on a small file system of its own."""
    stack: Mapping[str, Any] = field(default_factory=dict)
    """What `installed` is asked for, other than usual."""


# A worker's chunks are out again, by the promise for the default lease.
OUT_AGAIN_S: Final = 30.0
# Processing goes on after Redis, or the network, is back.
GOES_ON_S: Final = 15.0
TAKES_OVER_S: Final = 10.0
# The dispatcher looks twice a second whose lease is over.
LOOK_S: Final = 1.0

ROWS: Final = (
    Row(
        name="kill-worker",
        what="kill -9 a worker: main process, loader, whole group in turns",
        fault=workers.kill,
        times=50,
        within_s=OUT_AGAIN_S,
        few=3,
    ),
    Row(
        name="kill-worker-default-lease",
        what="the same at the default lease",
        fault=workers.kill_at_default_lease,
        times=1,
        within_s=DEFAULT_LEASE_S + LOOK_S,
        stack={"lease_s": DEFAULT_LEASE_S},
    ),
    Row(
        name="kill-redis",
        what="kill -9 Redis, with its append-only file",
        fault=redis.kill_with_file,
        times=10,
        within_s=GOES_ON_S,
    ),
    Row(
        name="kill-redis-without-file",
        what="kill -9 Redis, without a file",
        fault=redis.kill_without_file,
        times=10,
        within_s=GOES_ON_S,
    ),
    Row(
        name="flush-redis", what="FLUSHALL", fault=redis.flush, times=10, within_s=GOES_ON_S
    ),
    Row(
        name="stop-redis",
        what="Redis stopped (SIGSTOP) for 60 s",
        fault=redis.stand_still,
        times=5,
        within_s=GOES_ON_S,
    ),
    Row(
        name="cut-redis",
        what="connections to Redis cut for 20 s, then half open",
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
        what="PostgreSQL away for 60 s",
        fault=postgres.stay_away,
        times=3,
        databases=POSTGRESQL,
        within_s=OUT_AGAIN_S,
    ),
    Row(
        name="disk-full",
        what="the database's disk is full",
        fault=disk.fill,
        times=3,
        within_s=OUT_AGAIN_S,
        small_disk=True,
    ),
    Row(
        name="messages-twice",
        what="every message delivered twice",
        fault=messages.twice,
        times=5,
    ),
    Row(
        name="messages-ten-times",
        what="every message delivered 10 times at once, to 2 workers",
        fault=messages.ten_times_at_once,
        times=5,
    ),
    Row(
        name="kill-producer",
        what="kill -9 the producer, submit again with the same key",
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
        what="an image that crashes its loader",
        fault=poison.crash,
        times=20,
        few=2,
    ),
    Row(
        name="loader-without-memory",
        what="an image that exhausts its loader's memory",
        fault=poison.exhaust_memory,
        times=20,
        few=2,
    ),
    Row(
        name="worker-dies",
        what="an image that kills the whole worker",
        fault=poison.kill_workers,
        times=20,
    ),
    Row(
        name="nothing-but-poison",
        what="chunks of nothing but these",
        fault=poison.nothing_but_poison,
        times=20,
    ),
    Row(
        name="innocent",
        what="the worker killed, again and again, on the same innocent chunk",
        fault=poison.kill_innocent,
        times=50,
        few=6,
    ),
    Row(
        name="freeze-worker",
        what="a worker frozen beyond its lease, then let go",
        fault=workers.freeze,
        times=10,
        within_s=OUT_AGAIN_S,
    ),
    Row(
        name="old-file",
        what="an old append-only file put back",
        fault=redis.put_back_old_file,
        times=10,
        within_s=GOES_ON_S,
    ),
    Row(
        name="steal",
        what="a message stolen from the queue",
        fault=redis.steal,
        times=10,
        within_s=OUT_AGAIN_S,
    ),
    Row(
        name="change-jobs",
        what="cancel, retry, priority change in the middle of such faults",
        fault=jobs.change,
        times=20,
        few=3,
    ),
)  # fmt: skip
