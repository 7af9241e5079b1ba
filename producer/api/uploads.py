"""Where uploaded pictures are kept: in a folder, or below a prefix of an object store.

`producer.api.images` writes arriving pictures into a separate folder (`incoming`) and hands them
over when all are complete (`keep`). So neither workers nor listings see an incomplete picture. A
picture gets a new name, independent of what the client sent.
"""

from __future__ import annotations

import secrets
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from shutil import rmtree
from typing import Final

from contract.errors import UsageError
from contract.objects import Stores, is_object, parse_object, refusal_of_object
from contract.settings import PREFIX, Settings

NAME: Final = f"{PREFIX}UPLOADS"
NAME_BYTES: Final = 16
INCOMING: Final = ".incoming"
# Age of leftovers from a killed server. No upload takes so long.
LEFT_S: Final = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture that has arrived completely."""

    path: Path
    ending: str
    """A file extension such as `.jpg`, chosen by the first bytes."""
    ref: str | None
    """The client's name for it."""


class Uploads(ABC):
    """A place for pictures. Its OSErrors are reported as `UnavailableError`."""

    where: str
    """The place as written in the setting."""

    @abstractmethod
    def incoming(self) -> AbstractContextManager[Path]:
        """A folder for arriving pictures, which is removed after the block.

        Raises:
            OSError: the disk is full or fails.
        """

    @abstractmethod
    def _put(self, path: Path, name: str) -> str:
        """Stores the file as the picture with this name. Returns its URI."""

    @abstractmethod
    def _remove(self, name: str) -> None: ...

    def keep(self, pictures: Sequence[Picture]) -> list[str]:
        """Keeps either all pictures or none. Returns their URIs.

        Raises:
            OSError: the disk or the object store fails.
        """
        uris: list[str] = []
        names = [_new_name(picture) for picture in pictures]
        try:
            for picture, name in zip(pictures, names, strict=True):
                uris.append(self._put(picture.path, name))
        except BaseException:
            for name in names[: len(uris)]:
                with suppress(OSError):  # the first error is the one to report
                    self._remove(name)
            raise
        return uris


def open_uploads(settings: Settings) -> Uploads | None:
    """The place that the settings name. None: pictures are not accepted.

    Raises:
        UsageError: the folder does not exist, or the object store is not enabled.
    """
    if settings.uploads is None:
        return None
    if is_object(settings.uploads):
        return _Bucket(settings.uploads, Stores.of(settings))
    return _Folder(Path(settings.uploads))


class _Folder(Uploads):
    def __init__(self, folder: Path) -> None:
        self.where = str(folder)
        self._folder = folder
        self._incoming = folder / INCOMING
        if not folder.is_dir():
            raise UsageError(f"{NAME} is {folder}, but there is no such folder. Create it.")
        try:
            self._incoming.mkdir(exist_ok=True)
            self._sweep()
        except OSError as error:
            raise UsageError(f"{NAME} is {folder}: {error.strerror}.") from error

    def _sweep(self) -> None:
        for left in self._incoming.iterdir():
            if left.stat().st_mtime < time.time() - LEFT_S:
                rmtree(left, ignore_errors=True)

    @contextmanager
    def incoming(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self._incoming) as folder:
            yield Path(folder)

    def _put(self, path: Path, name: str) -> str:
        kept = self._folder / name
        kept.parent.mkdir(exist_ok=True)
        return path.rename(kept).as_uri()

    def _remove(self, name: str) -> None:
        (self._folder / name).unlink()


class _Bucket(Uploads):
    def __init__(self, prefix: str, stores: Stores) -> None:
        refused = refusal_of_object(f"{prefix}picture", stores.enabled)
        if refused is not None:
            raise UsageError(f"{NAME} is {prefix}: {refused.detail}.")
        stores.check_installed()
        self.where = prefix
        place = parse_object(f"{prefix}picture")
        self._key = place.key.removesuffix("picture")
        self._store = stores.open(place.scheme, place.bucket)

    @contextmanager
    def incoming(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)

    def _put(self, path: Path, name: str) -> str:
        import obstore  # noqa: PLC0415  (an extra)

        with _as_os_error():
            obstore.put(self._store, self._key + name, path)
        return self.where + name

    def _remove(self, name: str) -> None:
        import obstore  # noqa: PLC0415  (an extra)

        with _as_os_error():
            obstore.delete(self._store, self._key + name)


@contextmanager
def _as_os_error() -> Iterator[None]:
    from obstore.exceptions import BaseError  # noqa: PLC0415  (an extra)

    try:
        yield
    except BaseError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].strip()
        raise OSError(
            0, f"{reason}. Check the bucket, and the credentials of the server"
        ) from error


def _new_name(picture: Picture) -> str:
    """A name below a folder for the day: a single folder would grow too large to list."""
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    return f"{day}/{secrets.token_hex(NAME_BYTES)}{picture.ending}"
