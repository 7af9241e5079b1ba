"""The wait before an image's next attempt: exponential backoff with full jitter.

`worker.chunk.store` uses it for chunks in SQL, and `worker.commands.classify_input` for images on
the command line.
"""

from __future__ import annotations

from random import uniform
from typing import Final

# Far more than any wait needs, but a float overflows at 1024 doublings.
MOST_DOUBLINGS: Final = 512


def retry_wait_s(attempt: int, *, mean_s: float, longest_s: float) -> float:
    """Returns a random wait after attempt `attempt`, which counts from 1.

    The mean doubles with each attempt. Full jitter (uniform from 0 to twice the mean) prevents
    images of one site from being retried at the same moment.

    Source: M. Brooker, Exponential Backoff And Jitter, AWS Architecture Blog, 2015.
    """
    doublings = min(max(0, attempt - 1), MOST_DOUBLINGS)
    return uniform(0.0, min(2.0 * mean_s * 2.0**doublings, longest_s))
