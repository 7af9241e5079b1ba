"""A request to load one image: from a caller of the pool to the loader that answers it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.pool.load import ManyCallback


@dataclass(slots=True)  # Not frozen: that is slower to make. Read-only all the same.
class LoadRequest:
    key: Any
    """The caller's name for the image; `done` gets it back."""
    uri: str
    root: Path | None
    """A file or folder that may be read besides `file_roots`, for this image."""
    host: str | None
    """Whose places the image takes; None for files."""
    done: ManyCallback
    """Called with the keys and loads of some of the caller's images."""
    kills: int = 0
    """Loaders that were killed from outside while this image was the suspect."""
    unexplained_deaths: int = 0
    """Loaders that died with this image in flight and named no suspect."""
    deaths_of_others: int = 0
    """Loaders that died with this image in flight and named another one."""
