"""Keeps the loaders of a pool running: starts them, watches them, and replaces those that die.

One thread for each loader waits for its death. It asks `worker.pool.verdict` which image is to
blame, and starts the next loader with the other images. One more thread watches all loaders, and
kills those that decode one image for too long, send no answers, or have too many threads.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from math import ceil
from typing import Final

from contract.errors import UnavailableError
from worker.loader.config import LoaderConfig
from worker.pool.environment import LoaderEnvironment
from worker.pool.process import LOOKS, LoaderProcess, start_process
from worker.pool.reader import LoaderReader
from worker.pool.request import LoadRequest
from worker.pool.scheduler import Scheduler
from worker.pool.verdict import CAUSES, Deadlines, Verdict, cause_of, judge

log = logging.getLogger(__name__)

# A loader that dies before it has taken a request is restarted only after a wait.
FIRST_RESTART_S: Final = 0.1
LONGEST_RESTART_S: Final = 10.0
ADVICE: Final = "Raise the limit of processes and threads, or lower RESNEXT_LOADERS."


class Replacement:
    """Owns the loader processes, and the threads that watch them."""

    def __init__(
        self,
        config: LoaderConfig,
        environment: LoaderEnvironment,
        deadlines: Deadlines,
        *,
        scheduler: Scheduler,
        reader: LoaderReader,
    ) -> None:
        self._config = config
        self._environment = environment
        self._deadlines = deadlines
        self._scheduler = scheduler
        self._reader = reader
        self._deaths = Counter(dict.fromkeys(CAUSES, 0))
        self._counting = threading.Lock()
        self._closing = threading.Event()
        self._started = threading.Event()
        self._keepers = [
            threading.Thread(target=self._keep, args=(n,), name=f"loader-{n}", daemon=True)
            for n in range(len(scheduler.processes))
        ]
        self._watcher = threading.Thread(target=self._watch, name="decode-watch", daemon=True)

    @property
    def deaths(self) -> dict[str, int]:
        """The number of replaced loaders, by `cause_of`."""
        with self._counting:
            return dict(self._deaths)

    def start(self) -> None:
        """Starts as many of the loaders as the system permits. The thread that calls this must
        live as long as the pool: the loaders end with it.

        Raises:
            UnavailableError: the system permits no loader.
        """
        self._watcher.start()
        try:
            for n, keeper in enumerate(self._keepers):
                keeper.start()
                process = start_process(self._config, self._environment)
                self._reader.add(process)
                self._scheduler.put(n, process)
        except (OSError, RuntimeError) as error:  # from the process, or from the thread
            self._do_with(n, error)
        finally:
            self._started.set()

    def _do_with(self, loaders: int, error: Exception) -> None:
        """Continues with the loaders that could be started.

        Raises:
            UnavailableError: there are none.
        """
        wanted = len(self._keepers)
        self._scheduler.keep(loaders)
        if not loaders:
            raise UnavailableError(f"No loader can be started: {error}. {ADVICE}") from error
        log.warning("Only %d of %d loaders can be started: %s. %s", loaders, wanted, error, ADVICE)

    def close(self) -> None:
        """Ends the processes, and returns when they are gone."""
        self._closing.set()
        for process in filter(None, list(self._scheduler.processes)):
            process.hang_up()
        for thread in (*self._keepers, self._watcher):
            if thread.ident is not None:
                thread.join()

    def _keep(self, n: int) -> None:
        """Replaces a loader each time it dies, until the pool closes."""
        wait_s = FIRST_RESTART_S
        self._started.wait()
        while n < len(self._scheduler.processes):
            process = self._scheduler.processes[n]
            if process is None:  # the pool was closed before the next one started
                return
            process.gone.wait()
            process.end()
            if self._closing.is_set():
                return
            works = process.answered or (process.ready and process.requests)
            wait_s = FIRST_RESTART_S if works else min(2 * wait_s, LONGEST_RESTART_S)
            self._replace(n, process, wait_s)

    def _watch(self) -> None:
        look_s = self._deadlines.decode_s / LOOKS
        most_looks = ceil(self._deadlines.silence_s / look_s)
        while not self._closing.wait(look_s):
            for process in filter(None, list(self._scheduler.processes)):
                process.look(self._deadlines.decode_s)
                process.listen(most_looks)

    def _replace(self, n: int, dead: LoaderProcess, wait_s: float) -> None:
        """Fails the image that ended the loader. The others go to the next loader."""
        self._scheduler.remove(n)  # from now on its requests do not change
        verdict = judge(dead, self._deadlines)
        _report(dead, verdict)
        with self._counting:
            self._deaths[cause_of(dead)] += 1
        if not dead.ready:  # the next one may not start either: other loaders take the images
            self._scheduler.give_back(verdict.again)
            verdict.again.clear()
        if verdict.failure is not None:
            self._scheduler.fail(verdict.failed, verdict.failure)
        elif not dead.answered:
            self._closing.wait(wait_s)
        process = self._restart(verdict.again)
        if process is None:
            return
        process.quarantine = verdict.quarantine
        again = process.assign(verdict.again)
        self._reader.add(process)
        process.send(again)
        self._scheduler.put(n, process)
        if self._closing.is_set():  # `close` may have run before `put`
            process.hang_up()

    def _restart(self, again: list[LoadRequest]) -> LoaderProcess | None:
        """Tries until a loader can be started. Returns None once the pool is closed. If the first
        try fails, the images for this loader go to the other loaders.
        """
        wait_s = FIRST_RESTART_S
        while not self._closing.is_set():
            try:
                return start_process(self._config, self._environment)
            except OSError as error:
                if wait_s == FIRST_RESTART_S:
                    log.error("No loader can be started; trying again: %s", error)  # noqa: TRY400
                    self._scheduler.give_back(again)
                    again.clear()
            self._closing.wait(wait_s)
            wait_s = min(2 * wait_s, LONGEST_RESTART_S)
        return None


def _report(dead: LoaderProcess, verdict: Verdict) -> None:
    suspects = len(verdict.quarantine.waiting) if verdict.quarantine else 0
    failed = ""
    if verdict.failure is not None:
        failed = f", and {len(verdict.failed)} of its images failed: {verdict.failure.code}"
    log.warning(
        "A loader died (exit status %s)%s; %d images go to its replacement%s.",
        dead.child.returncode,
        failed,
        len(verdict.again) + suspects,
        ", a few at once, to find the image that ends loaders" if suspects else "",
    )
