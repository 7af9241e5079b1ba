"""Which GPU a worker computes on where a machine has several: one that no other worker holds.

`worker.batch.model` asks before it loads the network. A GPU is held by the lock of a file, which
ends with its process; the file lies in the cache, which all workers of a machine share.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

AUTO: Final = "auto"


def choose_device(asked: str, cache: Path) -> str:
    """`asked`, or for `auto` on a machine of several GPUs the first one that is free."""
    import torch  # noqa: PLC0415  (takes seconds, and only who computes needs it)

    if asked != AUTO or torch.cuda.device_count() < 2:  # noqa: PLR2004  (one needs no choice)
        return asked
    gpus = [str(torch.cuda.get_device_properties(n).uuid) for n in range(torch.cuda.device_count())]
    return f"cuda:{hold_first_free(gpus, cache / 'gpus')}"


def hold_first_free(gpus: Sequence[str], folder: Path) -> int:
    """The place in the list of the first GPU that nobody holds; it is held until this process
    ends. Where all are held, the first one is shared.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for place, gpu in enumerate(gpus):
        lock = os.open(folder / f"{gpu}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode=0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            return place  # the descriptor stays open, and with it the lock
    log.warning("Each of %d GPUs has a worker already; this one shares the first.", len(gpus))
    return 0
