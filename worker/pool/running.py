"""The loaders that run now, and their free slots.

`worker.pool.scheduler` deals requests to them; `worker.pool.replacement` takes out a loader that
has died and puts in the next one. Every method needs the scheduler's lock.
"""

from __future__ import annotations

from collections.abc import Sequence

from worker.pool.process import LoaderProcess
from worker.pool.request import LoadRequest

Batches = dict[LoaderProcess, list[tuple[int, LoadRequest]]]
"""Requests with their slots, by the loader that gets them."""


def send(batches: Batches) -> None:
    """Sends requests to the loaders. Call this without the lock, because it may block."""
    for process, assigned in batches.items():
        process.send(assigned)


class RunningLoaders:
    """Owns the list of loaders. A loader in quarantine offers no free slot."""

    def __init__(self, loaders: int) -> None:
        self._processes: list[LoaderProcess | None] = [None] * loaders
        self._open: list[LoaderProcess] = []  # those that take any image

    @property
    def processes(self) -> Sequence[LoaderProcess | None]:
        """The loaders; None in place of one that is being replaced."""
        return self._processes

    def put(self, n: int, process: LoaderProcess | None) -> None:
        self._processes[n] = process
        self._list_open()

    def keep(self, loaders: int) -> None:
        """Keeps only the first `loaders`, because no more could be started."""
        del self._processes[loaders:]
        self._list_open()

    def free(self) -> int:
        return sum(len(process.free) for process in self._open)

    def has_free(self) -> bool:
        return any(process.free for process in self._open)

    def deal(self, requests: Sequence[LoadRequest]) -> Batches:
        """Gives requests to the loaders with the most free slots, so that all have about equally
        many left. There must be enough free slots.
        """
        batches: Batches = {}
        if not requests:
            return batches
        begin, ordered = 0, sorted(self._open, key=lambda process: len(process.free))
        left = sum(len(process.free) for process in ordered) - len(requests)
        for loaders, process in zip(range(len(ordered), 0, -1), ordered, strict=True):
            kept = min(len(process.free), left // loaders)
            left -= kept
            end = begin + len(process.free) - kept
            if end > begin:
                batches[process] = process.assign(requests[begin:end])
            begin = end
        return batches

    def deal_suspects(self) -> Batches:
        """Gives loaders in quarantine what they may begin now. Ends quarantines that are over."""
        batches: Batches = {}
        if len(self._open) == len(self._processes):
            return batches
        for process in filter(None, self._processes):
            if process.quarantine is not None and (suspects := process.begin_suspects()):
                batches[process] = suspects
        self._list_open()
        return batches

    def _list_open(self) -> None:
        self._open = [p for p in self._processes if p is not None and p.quarantine is None]
