"""Finds the images of folders, and the files and folders that match a pattern (a glob)."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from contract.errors import SourceError
from producer.submit.sources.entry import Entry, quoted, shorten
from producer.submit.sources.left_out import LINK, NO_IMAGE, OF_MACOS, LeftOut

IMAGE_EXTENSIONS: Final = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp"),
        *(".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
        *(".avif", ".heic", ".heif"),
    }
)
"""HEIF is among them: a worker without the extra `heif` fails such an image with advice, while a
file that is left out is easily missed.
"""
MACOS_FOLDER: Final = "__MACOSX"


def is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS  # noqa: PTH122  (of keys, too)


def is_of_macos(path: str) -> bool:
    """Whether it is metadata that macOS puts into archives and onto foreign disks, with similar
    names.
    """
    *folders, name = path.split("/")
    return name.startswith("._") or MACOS_FOLDER in folders


def is_pattern(source: str) -> bool:
    return glob.has_magic(source)


def matches(pattern: str) -> list[Path]:
    """The matches of a pattern, sorted by name. `**` stands for any folders between.

    Raises:
        SourceError: nothing matches.
    """
    found = sorted(glob.iglob(pattern, recursive=True))  # noqa: PTH207  (absolute ones as well)
    if not found:
        raise SourceError(
            f"{quoted(pattern)} matches no file. A pattern looks like 'lists/*.csv' or "
            "'photos/**/*.jpg'."
        )
    return [Path(one) for one in found]


def without_dots(path: Path) -> Path:
    """The path without `..`, so that each file has one URI. Only such a path has links resolved."""
    if ".." not in path.parts:
        return path
    whole = path.name == ".."
    return path.resolve() if whole else path.parent.resolve() / path.name


def entry_of_file(path: Path, root: Path) -> Entry:
    return Entry(path.absolute().as_uri(), None, str(path), 0, root)


def walk(folder: Path, left_out: LeftOut) -> Iterator[Entry]:
    """The image files below a folder, sorted by name. Links to folders are not followed."""
    return _walk(folder, folder.absolute(), str(folder), left_out)


def _walk(folder: Path, root: Path, named: str, left_out: LeftOut) -> Iterator[Entry]:
    try:
        with os.scandir(folder) as listing:
            names = sorted((e.name, e.is_dir(follow_symlinks=False)) for e in listing)
    except OSError as error:
        raise unreadable(folder, error) from error
    for name, is_folder in names:
        path = folder / name
        if is_folder and name == MACOS_FOLDER:
            for _, _, files in os.walk(path):
                for _ in files:
                    left_out.note(named, OF_MACOS)
        elif is_folder:
            yield from _walk(path, root, named, left_out)
        elif is_of_macos(name):
            left_out.note(named, OF_MACOS)
        elif not is_image(name):
            left_out.note(named, LINK if _leads_to_folder(path) else NO_IMAGE, name)
        elif _leads_to_folder(path):
            left_out.note(named, LINK)
        else:
            yield entry_of_file(path, root)


def _leads_to_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a broken link: the image itself will fail
        return False


def unreadable(path: Path, error: OSError) -> SourceError:
    return SourceError(f"{shorten(str(path))} cannot be read: {error.strerror}.")
