"""Images that end a loader or a worker, and workers that are killed over a harmless image."""

from __future__ import annotations

from typing import Final

from tests.chaos.healing import healing
from tests.chaos.pictures import ENDS_AS
from tests.chaos.stack import CHUNK_IMAGES
from tests.chaos.trial import Trial
from tests.chaos.wait import until

# Each image that kills its worker costs five lives of one, and its neighbours run one by one.
WITHIN_S: Final = 600.0
# In the short run it has fewer of them.
SHORT_CHUNK_IMAGES: Final = 4
# So few that each is hit far more often than an image that ends its worker may be.
INNOCENT_IMAGES: Final = 2


def crash(trial: Trial) -> None:
    """An image that crashes its loader, among others."""
    _among_others(trial, "crash")


def exhaust_memory(trial: Trial) -> None:
    _among_others(trial, "memory")


def kill_workers(trial: Trial) -> None:
    """An image that kills the whole worker, among others."""
    with healing(trial.stack):
        _among_others(trial, "kill")


def nothing_but_poison(trial: Trial) -> None:
    """Submits chunks of one image of each kind, and a harmless job beside them."""
    pictures = trial.stack.pictures
    with healing(trial.stack):
        for _ in trial.rounds():
            trial.load.submit([uri for kind in ENDS_AS for uri in pictures.harmful(kind, 1)])
        trial.load.submit(pictures.plain(CHUNK_IMAGES, trial.random))
        trial.load.finish(within_s=WITHIN_S)


def _among_others(trial: Trial, kind: str) -> None:
    """Submits each harmful image among harmless ones, in a job of its own."""
    stack = trial.stack
    for harmful in stack.pictures.harmful(kind, trial.times):
        images = SHORT_CHUNK_IMAGES if trial.short else CHUNK_IMAGES
        uris = stack.pictures.plain(images - 1, trial.random)
        uris.insert(trial.random.randrange(images), harmful)
        trial.load.submit(uris)
        trial.caused += 1
    trial.load.finish(within_s=WITHIN_S)


def kill_innocent(trial: Trial) -> None:
    """Kills each worker that runs one harmless chunk, before it can finish."""
    stack = trial.stack
    with stack.held():
        trial.load.submit(stack.pictures.plain(1 if trial.short else INNOCENT_IMAGES, trial.random))
        for _ in trial.rounds():
            victim = until("a worker runs the harmless chunk", stack.busy_worker)
            victim.end()
            stack.heal()
    trial.load.finish()
