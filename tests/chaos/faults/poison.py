"""Images that crash a loader or a worker, and workers that are killed over a harmless image."""

from __future__ import annotations

from typing import Final

from tests.chaos.healing import healing
from tests.chaos.pictures import ENDS_AS
from tests.chaos.stack import CHUNK_IMAGES
from tests.chaos.trial import Trial
from tests.chaos.wait import until

# An image that kills its worker kills it five times. Its neighbours then run one by one. On a
# busy machine each worker takes half a minute to start.
WITHIN_S: Final = 1800.0
SHORT_WITHIN_S: Final = 600.0
# A shortened run has fewer images in these chunks.
SHORT_CHUNK_IMAGES: Final = 4
# So few that each image is hit far more often than an image that kills its worker could be.
INNOCENT_IMAGES: Final = 2


def crash(trial: Trial) -> None:
    """Submits images that crash their loader, each among harmless ones."""
    _among_others(trial, "crash")


def exhaust_memory(trial: Trial) -> None:
    _among_others(trial, "memory")


def kill_workers(trial: Trial) -> None:
    """Submits images that kill the whole worker, each among harmless ones."""
    with healing(trial.stack):
        _among_others(trial, "kill")


def nothing_but_poison(trial: Trial) -> None:
    """Submits chunks of one image of each kind, and a harmless job beside them."""
    pictures = trial.stack.pictures
    with healing(trial.stack):
        for _ in trial.rounds():
            trial.load.submit([uri for kind in ENDS_AS for uri in pictures.harmful(kind, 1)])
        trial.load.submit(pictures.plain(CHUNK_IMAGES, trial.random))
        _finish(trial)


def _among_others(trial: Trial, kind: str) -> None:
    """Submits each harmful image in a separate job, among harmless ones."""
    stack = trial.stack
    for harmful in stack.pictures.harmful(kind, trial.times):
        images = SHORT_CHUNK_IMAGES if trial.short else CHUNK_IMAGES
        uris = stack.pictures.plain(images - 1, trial.random)
        uris.insert(trial.random.randrange(images), harmful)
        trial.load.submit(uris)
        trial.caused += 1
    _finish(trial)


def _finish(trial: Trial) -> None:
    trial.load.finish(within_s=SHORT_WITHIN_S if trial.short else WITHIN_S)


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
