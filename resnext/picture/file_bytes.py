"""A file's bytes for one of Pillow's readers. It notices two things that readers do not report.

These are whether the file ends inside its header, and whether the header has so many parts that
only reading it takes seconds. In every format, each part costs at least one call of `read`.
"""

from __future__ import annotations

from io import BytesIO
from typing import Final

from PIL.ImageFile import ImageFile

# A photograph has some dozens of parts before its pixels, or hundreds with a large colour profile,
# an XMP block in pieces of 255 bytes or a long palette. A million parts take seconds.
MOST_HEADER_READS: Final = 20_000


class HeaderTooLong(Exception):
    """The header has too many parts."""


class Body(BytesIO):
    """The file of one image. Its header is read first, then its pixels."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.ended_early = False
        """Whether the file ended while the header was read."""
        self._in_header = True
        self._reads_left = MOST_HEADER_READS

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        if self._in_header:
            self._reads_left -= 1
            if self._reads_left < 0:
                raise HeaderTooLong
            if size is not None and len(content) < size:
                self.ended_early = True
        return content

    def begin_pixels(self) -> None:
        self._in_header = False

    def become(self, content: bytes) -> None:
        """Replaces the content, and starts again at its beginning."""
        self.seek(0)
        self.write(content)
        self.truncate()
        self.seek(0)


def body_of(reader: ImageFile) -> Body:
    """Returns the file of a reader."""
    body = reader.fp
    if not isinstance(body, Body):
        raise TypeError(body)
    return body
