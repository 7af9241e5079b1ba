"""A loader's configuration: the worker builds it from the settings, and sends it at the start.

`worker.pool.process` sends it as the first packet, in JSON, and `worker.loader.program` reads it.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from resnext.picture.decode import DecodeLimits, Route
from resnext.picture.orientation import Orientation
from resnext.picture.preprocess import Preprocessing
from worker.loader.fetch.helpers import HELPERS_A_FETCH
from worker.loader.fetch.settings import FetchSettings, pick

if TYPE_CHECKING:  # a loader starts without pydantic
    from contract.settings import Settings

# The address space holds Python and its libraries, each thread's stack, the largest bodies of a few
# fetches, and per pixel of the largest image the most that Pillow and a decoder need. An animated
# WebP needs two canvases, a copy, the picture, and the picture without alpha, at 4 bytes each.
BASE_BYTES: Final = 2 * 2**30
STACK_BYTES: Final = 2**20
LARGEST_BODIES: Final = 32
BYTES_A_PIXEL: Final = 24
# `RESNEXT_DECODE=fast` loads torch, which maps CUDA's libraries although nothing uses them.
TORCH_BYTES: Final = 16 * 2**30
# obstore starts a thread for each core, and one for each look-up of a name.
OBJECT_STORE_BYTES: Final = 2**29
# The loop, the decoder, and the thread that watches the sandbox's files. Helpers start as needed:
# for each image in flight usually one, and at most `HELPERS_A_FETCH`.
THREADS: Final = 3
THREADS_A_FETCH: Final = 1
# The threads of a loader that fetches nothing yet. Libraries start more for each core.
OWN_THREADS: Final = 8
MOST_THREADS_A_CORE: Final = 8
# The usual limit of 1024 is meant for `select`.
MOST_DESCRIPTORS: Final = 16 * 1024


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    fetch: FetchSettings
    decoding: DecodeLimits
    preprocessing: Preprocessing
    route: Route
    orientation: Orientation
    slots: int

    @classmethod
    def of(cls, settings: Settings, preprocessing: Preprocessing) -> Self:
        return cls(
            fetch=FetchSettings.of(settings),
            decoding=pick(DecodeLimits, settings),
            preprocessing=preprocessing,
            route=settings.decode,
            orientation=settings.orientation,
            slots=settings.fetches_per_loader,
        )

    def encode(self) -> bytes:
        return json.dumps(asdict(self), default=str).encode()

    @classmethod
    def decode(cls, packet: bytes) -> Self:
        sent: dict[str, Any] = json.loads(packet, object_hook=_lists_to_tuples)
        roots = tuple(map(Path, sent["fetch"].pop("file_roots")))
        return cls(
            fetch=FetchSettings(file_roots=roots, **sent.pop("fetch")),
            decoding=DecodeLimits(**sent.pop("decoding")),
            preprocessing=Preprocessing(**sent.pop("preprocessing")),
            **sent,
        )

    @property
    def address_space_bytes(self) -> int:
        threads = THREADS + self.slots * HELPERS_A_FETCH
        bodies = min(self.slots, LARGEST_BODIES) * 2 * self.fetch.max_image_bytes
        stacks = threads * STACK_BYTES
        torch = TORCH_BYTES if self.route == "fast" else 0
        objects = OBJECT_STORE_BYTES if self.fetch.object_stores else 0
        pixels = self.decoding.max_pixels * BYTES_A_PIXEL
        return BASE_BYTES + torch + objects + stacks + bodies + pixels

    @property
    def most_threads(self) -> int:
        """A loader with more threads was taken over."""
        cores = os.cpu_count() or 1
        return OWN_THREADS + cores * MOST_THREADS_A_CORE + self.slots * HELPERS_A_FETCH


def _lists_to_tuples(sent: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in sent.items()}
