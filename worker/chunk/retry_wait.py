"""How long an image waits for its next attempt: exponential, with full jitter.

Called by `worker.chunk.store` for a chunk in SQL, and by `worker.commands.classify_input` for an
image on the command line.
"""

from __future__ import annotations

from random import uniform
from typing import Final

# Far more than any wait needs. A float overflows at 1024 doublings.
MOST_DOUBLINGS: Final = 512


def retry_wait_s(attempt: int, *, mean_s: float, longest_s: float) -> float:
    """A random wait after attempt `attempt`, which counts from 1.

    The mean doubles with each attempt. Full jitter (uniform from 0 to twice the mean) keeps the
    images of one site from coming back together.

    Source: M. Brooker, Exponential Backoff And Jitter, AWS Architecture Blog, 2015.
    """
    doublings = min(max(0, attempt - 1), MOST_DOUBLINGS)
    return uniform(0.0, min(2.0 * mean_s * 2.0**doublings, longest_s))
