"""Where an export's bytes go: standard output, a file, a folder, an object or an object prefix.

A file appears under its name only when it is complete: it is written beside and then renamed. An
object appears when its upload is finished. So an interrupted export leaves no half-written file
under the name.
"""

from __future__ import annotations

import io
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from fcntl import LOCK_EX, LOCK_NB, flock
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

from contract.errors import UnavailableError, UsageError
from contract.objects import EXTRAS, Stores, is_object, parse_object
from contract.settings import Settings

_PART: Final = ".part"
# A name may have 255 bytes. A few more letters and the suffix follow these.
_NAME_BYTES: Final = 200


class Place(Protocol):
    """A place where a file can be written."""

    def writing(self, name: str) -> AbstractContextManager[BinaryIO]:
        """Opens a file that appears under its name when the block ends without an error."""


class Folder(Place, Protocol):
    """A folder, or a prefix of an object store."""

    def read(self, name: str) -> bytes | None:
        """The content of a file. None: there is no such file."""


@dataclass(frozen=True)
class Target:
    """The single file that `--output` names."""

    shown: str
    place: Place
    name: str


@dataclass(frozen=True)
class FolderTarget:
    """The folder for parts that `--output` names."""

    shown: str
    place: Folder


def target_of(output: str | None, settings: Settings) -> Target | FolderTarget:
    """The target that `--output` names.

    Raises:
        UsageError: the URL has another scheme, or names no object.
        UnavailableError: the package that writes to the store is not installed.
    """
    if output is None:
        return Target("standard output", _StandardOutput(), "-")
    if is_object(output):
        return _object_target(output, settings)
    if "://" in output:
        raise UsageError(
            f"--output is {output!r}. Write a path, s3://bucket/key or gs://bucket/key."
        )
    path = Path(output)
    if output.endswith("/") or path.is_dir():
        return FolderTarget(output, _Folder(path))
    path = path.resolve()
    if path.exists() and not path.is_file():
        return Target(output, _Device(path), path.name)
    return Target(output, _Folder(path.parent, make=False), path.name)


class _StandardOutput:
    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        del name
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()


class _Device:
    """A device or a pipe, which is written to directly."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        del name
        with _telling(self._path), self._path.open("wb") as file:
            yield file


class _Folder:
    def __init__(self, path: Path, *, make: bool = True) -> None:
        self._path = path
        self._make = make

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        path = self._path / name
        with _telling(path):
            if self._make:
                self._path.mkdir(parents=True, exist_ok=True)
            # Hidden, so that programs that read the folder skip it.
            beginning = f".{os.fsdecode(os.fsencode(path.name)[:_NAME_BYTES])}."
            _remove_left(path.parent, beginning)
            part = path.with_name(f"{beginning}{secrets.token_hex(4)}{_PART}")
            try:
                with part.open("xb") as file:
                    with suppress(OSError):  # some file systems have no locks
                        flock(file, LOCK_EX)
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)

    def read(self, name: str) -> bytes | None:
        path = self._path / name
        with _telling(path), suppress(FileNotFoundError):
            return path.read_bytes()
        return None


def _remove_left(folder: Path, beginning: str) -> None:
    """Removes files that killed exports have left. A live export holds a lock on its file."""
    for name in os.listdir(folder):  # noqa: PTH208  (names alone are enough)
        if name.startswith(beginning) and name.endswith(_PART):
            left = folder / name
            with suppress(OSError), left.open("rb") as file:
                flock(file, LOCK_EX | LOCK_NB)
                left.unlink()


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnavailableError(f"{path} cannot be written: {error.strerror}.") from error


def _object_target(output: str, settings: Settings) -> Target | FolderTarget:
    path = output.partition("://")[2]
    is_prefix = bool(path) and ("/" not in path or path.endswith("/"))  # a bucket alone is a prefix
    try:
        name = parse_object(f"{output.removesuffix('/')}/part" if is_prefix else output)
    except ValueError as error:
        raise UsageError(f"--output is {output!r}: {error}.") from error
    if find_spec("obstore") is None:
        raise UnavailableError(
            f"--output {output} needs obstore, which is not installed. "
            f"Install it with: pip install '.[{EXTRAS[name.scheme]}]' in the project's folder"
        )
    prefix, _, last = name.key.rpartition("/")
    store = Stores.of(settings).open(name.scheme, name.bucket)
    place = _Prefix(store, f"{prefix}/" if prefix else "", output)
    return FolderTarget(output, place) if is_prefix else Target(output, place, last)


class _Prefix:
    """Objects whose keys begin with `prefix`."""

    def __init__(self, store: Any, prefix: str, shown: str) -> None:  # noqa: ANN401  (obstore's)
        self._store = store
        self._prefix = prefix
        self._shown = shown

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        import obstore  # noqa: PLC0415  (an extra)

        writer = obstore.open_writer(self._store, self._prefix + name)
        with self._telling():
            yield _Upload(writer)  # type: ignore[misc]
            writer.close()  # creates the object; a writer that is dropped without this creates none

    def read(self, name: str) -> bytes | None:
        import obstore  # noqa: PLC0415  (an extra)

        with self._telling(), suppress(FileNotFoundError):
            return bytes(obstore.get(self._store, self._prefix + name).bytes())
        return None

    @contextmanager
    def _telling(self) -> Iterator[None]:
        from obstore.exceptions import BaseError  # noqa: PLC0415  (an extra)

        try:
            yield
        except (BaseError, OSError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].strip()
            raise UnavailableError(
                f"{self._shown} cannot be written: {reason}. Check the bucket's name, the "
                "credentials of this environment, or RESNEXT_S3_ENDPOINT."
            ) from error


class _Upload(io.RawIOBase):
    """A file object for Python and pyarrow that passes its bytes to an obstore writer."""

    def __init__(self, writer: Any) -> None:  # noqa: ANN401  (obstore's)
        self._writer = writer
        self._written = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:  # noqa: ANN401  (whatever has bytes)
        view = memoryview(data)
        self._writer.write(bytes(view))
        self._written += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        return self._written
