"""A request to load one image: from a caller of the pool to the loader that answers it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.pool.load import ManyCallback


@dataclass(slots=True)  # Not frozen, because that is slower to create. Treat it as read-only.
class LoadRequest:
    key: Any
    """The caller's key for the image, which `done` gets back."""
    uri: str
    root: Path | None
    """A file or folder that may be read for this image, besides `file_roots`."""
    host: str | None
    """The host whose places the image takes; None for files."""
    done: ManyCallback
    """Called with the keys and loads of some of the caller's images."""
    kills: int = 0
    """How many loaders were killed from outside while this image was the suspect."""
    unexplained_deaths: int = 0
    """How many loaders died with this image in flight and named no suspect."""
    deaths_of_others: int = 0
    """How many loaders died with this image in flight and named another one."""
