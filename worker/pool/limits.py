"""What the system permits a worker: processes, threads and descriptors, and so loaders and fetches.

`worker.pool.pool` asks before it starts anything: where a limit is lower than the settings want,
the pool takes fewer fetches a loader, then fewer loaders, and logs once which limit it is.
"""

from __future__ import annotations

import logging
import os
import resource
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from contract.cgroups import folders_of, words_of
from contract.errors import UnavailableError
from contract.settings import Settings
from worker.loader.config import (
    MOST_DESCRIPTORS,
    OWN_THREADS,
    THREADS_A_FETCH,
)
from worker.loader.fetch.descriptors import fetches_within

log = logging.getLogger(__name__)

# Of the worker itself: tasks, database and broker, what computes.
RESERVED_THREADS: Final = 64
# A loader that fetches fewer images at once is not worth its process.
FEWEST_FETCHES: Final = 4
ADVICE: Final = (
    "Raise this limit, or lower RESNEXT_LOADERS and RESNEXT_FETCHES_PER_LOADER to what there is."
)
_ROOT: Final = 0
_NO_MORE_THREADS: Final = "can't start new thread"  # as Python says it


@dataclass(frozen=True)
class Limit:
    name: str
    most: int
    used: int

    def __str__(self) -> str:
        in_use = f", of which {self.used} are in use" if self.used else ""
        return f"{self.name} is {self.most}{in_use}"


class Share(NamedTuple):
    """What of the loaders' work is done at once."""

    loaders: int
    fetches: int
    """Of each loader."""


def fitted(settings: Settings) -> Settings:
    """The settings with as many loaders and fetches as the limits permit. If these are fewer, one
    warning names the limits.
    """
    share, met = permitted_share(settings)
    if not met:
        return settings
    log.warning("Fewer images are fetched at once: %s. %s", told(settings, share, met), ADVICE)
    return settings.model_copy(
        update={"loaders": share.loaders, "fetches_per_loader": share.fetches}
    )


def permitted_share(settings: Settings) -> tuple[Share, list[Limit]]:
    """What the limits permit, and those of them that permit less than the settings want."""
    share, met = Share(settings.loaders, settings.fetches_per_loader), []
    for limit in limits_of_threads():
        before, share = share, fit_threads(share, limit)
        met += [limit] * (share != before)
    limit = limit_of_descriptors()
    before, share = share, fit_descriptors(share, limit)
    met += [limit] * (share != before)
    return share, met


def told(settings: Settings, share: Share, met: Iterable[Limit]) -> str:
    """For a person: what is started, what was wanted, and the limits."""
    return (
        f"{share.loaders} loaders with {share.fetches} fetches each instead of {settings.loaders} "
        f"with {settings.fetches_per_loader}, since {'; '.join(map(str, met))}"
    )


def fit_threads(wanted: Share, limit: Limit) -> Share:
    """Fewer fetches a loader, down to `FEWEST_FETCHES`, then fewer loaders; at least one."""
    room = limit.most - limit.used - RESERVED_THREADS
    least = _threads(min(wanted.fetches, FEWEST_FETCHES))
    loaders = min(wanted.loaders, max(1, room // least))
    fetches = (room // loaders - _threads(0)) // THREADS_A_FETCH
    return Share(loaders, min(wanted.fetches, max(1, fetches)))


def fit_descriptors(wanted: Share, limit: Limit) -> Share:
    """Each loader has as many of its own."""
    return wanted._replace(fetches=min(wanted.fetches, fetches_within(limit.most)))


def _threads(fetches: int) -> int:
    """Of one loader, and the one that the worker watches it with."""
    return OWN_THREADS + 1 + THREADS_A_FETCH * fetches


def limits_of_threads(root: Path = Path("/")) -> Iterator[Limit]:
    """Those that hold for this process. A process counts as its threads.

    Args:
        root: of the file system.
    """
    for folder in folders_of("pids", root):
        most, used = words_of(folder / "pids.max"), words_of(folder / "pids.current")
        if most and used and most[0].isdecimal():
            yield Limit(f"pids.max in {folder}", int(most[0]), int(used[0]))
    most_of_user, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    user = os.getuid()
    if user != _ROOT and most_of_user != resource.RLIM_INFINITY:
        used_by_user = sum(_threads_of(user, root))
        yield Limit(f"`ulimit -u` of user {user}", most_of_user, used_by_user)


def limit_of_descriptors() -> Limit:
    """Of each process; loaders raise their own to the hard limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = most == resource.RLIM_INFINITY
    return Limit("`ulimit -n`", MOST_DESCRIPTORS if unlimited else most, 0)


@contextmanager
def naming_limits() -> Iterator[None]:
    """
    Raises:
        UnavailableError: in place of Python's error where no thread can be started.
    """
    try:
        yield
    except RuntimeError as error:
        if str(error) != _NO_MORE_THREADS:
            raise
        found = "; ".join(map(str, limits_of_threads())) or "no limit of this process is known"
        raise UnavailableError(
            f"The system permits no more threads: {found}. "
            "Raise its limit of processes and threads."
        ) from error


def _threads_of(user: int, root: Path) -> Iterator[int]:
    """Threads of each process of this user, as `ulimit -u` counts them."""
    for path in (root / "proc").glob("[0-9]*/status"):
        try:
            lines = dict(line.split(":", 1) for line in path.read_text().splitlines())
            if int(lines["Uid"].split()[0]) == user:
                yield int(lines["Threads"])
        except (OSError, ValueError, KeyError):  # it has ended meanwhile
            continue
