"""Writes files with secrets: only their owner may read them, and no reader sees half a file."""

from __future__ import annotations

import os
from pathlib import Path


def write_secret(path: Path, content: str) -> None:
    """Replaces the file, readable only by its owner. Readers see the old or the new content."""
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(content)
    part.replace(path)
