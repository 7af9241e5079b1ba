"""The images of folders, and the files and folders that a pattern (a glob) names."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from contract.errors import SourceError
from producer.submit.sources.entry import Entry, shorten
from producer.submit.sources.left_out import LINK, NO_IMAGE, LeftOut

IMAGE_EXTENSIONS: Final = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}
)


def is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS  # noqa: PTH122  (of keys, too)


def is_pattern(source: str) -> bool:
    return glob.has_magic(source)


def matches(pattern: str) -> list[Path]:
    """What a pattern names, by name; `**` stands for any folders between.

    Raises:
        SourceError: nothing.
    """
    found = sorted(glob.iglob(pattern, recursive=True))  # noqa: PTH207  (absolute ones as well)
    if not found:
        raise SourceError(
            f"{shorten(pattern)!r} names no file. A pattern is like 'lists/*.csv' or "
            "'photos/**/*.jpg'."
        )
    return [Path(one) for one in found]


def entry_of_file(path: Path, root: Path) -> Entry:
    return Entry(path.absolute().as_uri(), None, str(path), 0, root)


def walk(folder: Path, left_out: LeftOut) -> Iterator[Entry]:
    """The image files below a folder, by name; links to folders are not followed."""
    return _walk(folder, folder.absolute(), str(folder), left_out)


def _walk(folder: Path, root: Path, named: str, left_out: LeftOut) -> Iterator[Entry]:
    try:
        with os.scandir(folder) as listing:
            names = sorted((e.name, e.is_dir(follow_symlinks=False)) for e in listing)
    except OSError as error:
        raise unreadable(folder, error) from error
    for name, is_folder in names:
        path = folder / name
        if is_folder:
            yield from _walk(path, root, named, left_out)
        elif not is_image(name):
            left_out.note(named, LINK if _leads_to_folder(path) else NO_IMAGE, name)
        elif _leads_to_folder(path):
            left_out.note(named, LINK)
        else:
            yield entry_of_file(path, root)


def _leads_to_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a link that cannot be followed: the image fails by itself
        return False


def unreadable(path: Path, error: OSError) -> SourceError:
    return SourceError(f"{shorten(str(path))} cannot be read: {error.strerror}.")
