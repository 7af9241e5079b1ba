"""Fits the number of loaders and fetches to the system's limits of threads and descriptors.

`worker.pool.pool` calls this before it starts anything. If a limit is lower than the settings need,
the pool uses fewer fetches per loader, then fewer loaders, and logs the limit once.
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

# For the worker itself: tasks, database, broker and computing.
RESERVED_THREADS: Final = 64
# A loader that fetches fewer images at once is not worth its process.
FEWEST_FETCHES: Final = 4
ADVICE: Final = (
    "Raise this limit, or lower RESNEXT_LOADERS and RESNEXT_FETCHES_PER_LOADER to these numbers."
)
_ROOT: Final = 0
_NO_MORE_THREADS: Final = "can't start new thread"  # Python's message


@dataclass(frozen=True)
class Limit:
    name: str
    most: int
    used: int

    def __str__(self) -> str:
        in_use = f", of which {self.used} are in use" if self.used else ""
        return f"{self.name} is {self.most}{in_use}"


class Share(NamedTuple):
    """How many loaders and fetches run at once."""

    loaders: int
    fetches: int
    """Fetches of each loader."""


def fitted(settings: Settings) -> Settings:
    """Returns the settings with as many loaders and fetches as the limits permit. If these are
    fewer, a warning names the limits.
    """
    share, met = permitted_share(settings)
    if not met:
        return settings
    log.warning("Fewer images are fetched at once: %s. %s", told(settings, share, met), ADVICE)
    return settings.model_copy(
        update={"loaders": share.loaders, "fetches_per_loader": share.fetches}
    )


def permitted_share(settings: Settings) -> tuple[Share, list[Limit]]:
    """Returns what the limits permit, and the limits that permit less than the settings need."""
    share, met = Share(settings.loaders, settings.fetches_per_loader), []
    for limit in limits_of_threads():
        before, share = share, fit_threads(share, limit)
        met += [limit] * (share != before)
    limit = limit_of_descriptors()
    before, share = share, fit_descriptors(share, limit)
    met += [limit] * (share != before)
    return share, met


def told(settings: Settings, share: Share, met: Iterable[Limit]) -> str:
    """A text for people: the started loaders, the wanted loaders, and the limits."""
    return (
        f"{share.loaders} loaders with {share.fetches} fetches each instead of {settings.loaders} "
        f"with {settings.fetches_per_loader}, because {'; '.join(map(str, met))}"
    )


def fit_threads(wanted: Share, limit: Limit) -> Share:
    """Lowers the fetches per loader to `FEWEST_FETCHES`, then the loaders, at least to one."""
    room = limit.most - limit.used - RESERVED_THREADS
    least = _threads(min(wanted.fetches, FEWEST_FETCHES))
    loaders = min(wanted.loaders, max(1, room // least))
    fetches = (room // loaders - _threads(0)) // THREADS_A_FETCH
    return Share(loaders, min(wanted.fetches, max(1, fetches)))


def fit_descriptors(wanted: Share, limit: Limit) -> Share:
    """Lowers the fetches per loader. The limit holds for each loader by itself."""
    return wanted._replace(fetches=min(wanted.fetches, fetches_within(limit.most)))


def _threads(fetches: int) -> int:
    """The threads of one loader, including the worker's thread that watches it."""
    return OWN_THREADS + 1 + THREADS_A_FETCH * fetches


def limits_of_threads(root: Path = Path("/")) -> Iterator[Limit]:
    """Yields the limits for this process. They count threads, so a process counts as its threads.

    Args:
        root: the root of the file system.
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
    """The limit for each process. Loaders raise theirs to the hard limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = most == resource.RLIM_INFINITY
    return Limit("`ulimit -n`", MOST_DESCRIPTORS if unlimited else most, 0)


@contextmanager
def naming_limits() -> Iterator[None]:
    """Turns Python's error for a thread that cannot be started into one that names the limits.

    Raises:
        UnavailableError: no thread can be started.
    """
    try:
        yield
    except RuntimeError as error:
        if str(error) != _NO_MORE_THREADS:
            raise
        found = "; ".join(map(str, limits_of_threads())) or "the limit is not known"
        raise UnavailableError(
            f"The system permits no more threads: {found}. "
            "Raise the limit of processes and threads."
        ) from error


def _threads_of(user: int, root: Path) -> Iterator[int]:
    """Yields the number of threads of each process of this user, which `ulimit -u` limits."""
    for path in (root / "proc").glob("[0-9]*/status"):
        try:
            lines = dict(line.split(":", 1) for line in path.read_text().splitlines())
            if int(lines["Uid"].split()[0]) == user:
                yield int(lines["Threads"])
        except (OSError, ValueError, KeyError):  # the process has ended meanwhile
            continue
