"""Takes a multipart body apart as it arrives: each picture becomes a file in one folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, Self

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from producer.api.problems import Refused
from producer.api.uploads import Picture

MOST_PICTURES: Final = 1_000
# Limit of a name from the client, which may also be an image's ref.
MOST_NAME_CHARS: Final = 200
# Enough bytes to tell the formats apart.
FIRST_BYTES: Final = 64
ENDINGS: Final = (
    (b"\xff\xd8\xff", ".jpg"),
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"GIF87a", ".gif"),
    (b"GIF89a", ".gif"),
    (b"II*\x00", ".tif"),
    (b"MM\x00*", ".tif"),
    (b"II+\x00", ".tif"),
    (b"MM\x00+", ".tif"),
)
BMP_HEADER_BYTES: Final = 18
# Formats that consist of boxes, by the brands in the first box.
BRANDS: Final = {b"avif": ".avif", b"avis": ".avif"} | dict.fromkeys(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), ".heic"
)
TAKEN: Final = "JPEG, PNG, GIF, WebP, BMP, TIFF, AVIF and HEIF"


def ending_of(first: bytes) -> str | None:
    """The file extension for a format, by the file's first bytes. None: not a picture."""
    for magic, ending in ENDINGS:
        if first.startswith(magic):
            return ending
    if first.startswith(b"RIFF") and first[8:12] == b"WEBP":
        return ".webp"
    # A text may begin with these letters, but it has no zeros.
    if first.startswith(b"BM") and b"\0\0" in first[:BMP_HEADER_BYTES]:
        return ".bmp"
    if first[4:8] != b"ftyp":
        return None
    brands = {first[at : at + 4] for at in range(8, len(first), 4)}
    return next((ending for brand, ending in BRANDS.items() if brand in brands), None)


class Incoming:
    """Owns the files of one body. As a context manager, it closes a file that is still open."""

    def __init__(self, boundary: bytes, folder: Path, most_bytes: int) -> None:
        """Begins a body.

        Raises:
            Refused: the boundary is invalid.
        """
        self._folder = folder
        self._most_bytes = most_bytes
        self._pictures: list[Picture] = []
        self._is_whole = False
        self._header, self._value = b"", b""
        self._disposition = b""
        self._name: str | None = None
        self._file: BinaryIO | None = None
        self._first, self._size = b"", 0
        with _refusing():
            self._parser = MultipartParser(
                boundary,
                {
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_part_end": self._on_part_end,
                    "on_end": self._on_end,
                },
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, data: bytes) -> None:
        """Takes the next piece of the body, of any length.

        Raises:
            Refused: the body is not multipart, or a part is not a picture or is too large.
            OSError: the disk is full or fails.
        """
        with _refusing():
            self._parser.write(data)

    def finish(self) -> list[Picture]:
        """All pictures, in their order.

        Raises:
            Refused: there are no pictures, or the body ends too early.
        """
        if not self._is_whole:
            raise Refused(422, "The body ends before its last boundary. Send it again.")
        if not self._pictures:
            raise Refused(422, "The body has no pictures. Send at least one file.")
        return self._pictures

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header, self._value = b"", b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._disposition = b""
        self._name = _text_of(options.get(b"filename"))
        if b"filename" not in options:
            field = _text_of(options.get(b"name")) or ""
            raise Refused(422, f"The part {field!r} has no file name, so it is not a picture.")
        if len(self._pictures) == MOST_PICTURES:
            raise Refused(
                413,
                (
                    f"The body has more than {MOST_PICTURES:,} pictures. Send several smaller "
                    "bodies."
                ),
            )
        self._file = self._path.open("xb")
        self._first, self._size = b"", 0

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        assert self._file is not None  # noqa: S101  (data come after headers)
        self._size += end - start
        if self._size > self._most_bytes:
            raise Refused(
                413,
                f"{self._what} has more than {self._most_bytes:,} bytes, which workers would "
                "refuse. Send a smaller one, or set RESNEXT_MAX_IMAGE_BYTES.",
            )
        if len(self._first) < FIRST_BYTES:
            self._first += data[start : min(end, start + FIRST_BYTES)]
            if len(self._first) >= FIRST_BYTES:
                self._ending()  # stop reading early if it is not a picture
        self._file.write(memoryview(data)[start:end])

    def _on_part_end(self) -> None:
        assert self._file is not None  # noqa: S101  (a part has had headers)
        self._file.close()
        self._file = None
        self._pictures.append(Picture(path=self._path, ending=self._ending(), ref=self._name))

    def _on_end(self) -> None:
        self._is_whole = True

    @property
    def _path(self) -> Path:
        return self._folder / str(len(self._pictures))

    @property
    def _what(self) -> str:
        name = "" if self._name is None else f" ({self._name!r})"
        return f"Picture {len(self._pictures) + 1}{name}"

    def _ending(self) -> str:
        ending = ending_of(self._first)
        if ending is None:
            begins = f"begins with {self._first[:8]!r}" if self._first else "is empty"
            raise Refused(
                422,
                f"{self._what} is not a picture: it {begins}. The formats are {TAKEN}.",
                code="bad_image",
            )
        return ending


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except FormParserError as error:
        raise Refused(422, f"The body is not valid multipart/form-data: {error}.") from error


def _text_of(given: bytes | None) -> str | None:
    """A name from the client, safe for messages. None: it is empty or missing."""
    if given is None:
        return None
    text = given.decode(errors="replace")[:MOST_NAME_CHARS]
    return (
        "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
        or None
    )
