"""Counts files in folders and buckets that are not submitted, in order to report them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import PurePath
from typing import Final

from producer.submit.sources.entry import shorten

NO_IMAGE: Final = "not an image by its extension"
OF_MACOS: Final = "macOS metadata, not an image"
LINK: Final = "a link to a folder, which is not followed"
ODD_KEY: Final = "a key that cannot be written as a URI"
# Number of extensions that are counted, and that are shown.
_MOST_EXTENSIONS: Final = 1_000
_SHOWN_EXTENSIONS: Final = 5


class LeftOut:
    """Counts by source and reason. Memory does not grow with the number of files."""

    def __init__(self) -> None:
        self._files: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)

    def note(self, source: str, reason: str, name: str = "") -> None:
        counted = self._files[source, reason]
        extension = PurePath(name).suffix.lower() if reason == NO_IMAGE else ""
        known = extension in counted or len(counted) < _MOST_EXTENSIONS
        counted[extension if known else "others"] += 1

    def lines(self) -> Iterator[str]:
        """One line for each source and reason, for people."""
        for (source, reason), counted in self._files.items():
            images = "1 file" if counted.total() == 1 else f"{counted.total():,} files"
            kinds = ""
            if reason == NO_IMAGE:
                shown = counted.most_common(_SHOWN_EXTENSIONS)
                parts = [f"{shorten(one) or 'no extension'} {n:,}" for one, n in shown]
                rest = counted.total() - sum(n for _, n in shown)
                kinds = f" ({', '.join([*parts, *([f'others {rest:,}'] if rest else [])])})"
            yield f"{shorten(source)}: {images} left out: {reason}{kinds}"

    def counts(self) -> list[dict[str, str | int]]:
        """The same counts for programs."""
        return [
            {"source": source, "reason": reason, "files": counted.total()}
            for (source, reason), counted in self._files.items()
        ]
