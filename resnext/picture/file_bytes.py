"""A file's bytes, as a reader of Pillow's reads them: it notices what the reader does not say.

Whether a header ended with the file, and whether it consists of so many parts that reading them
is all that the file is for: each part, in each format, costs at least one call of `read`.
"""

from __future__ import annotations

from io import BytesIO
from typing import Final

from PIL.ImageFile import ImageFile

# A photograph has some dozens of parts before its pixels; with a large colour profile, an XMP
# block in pieces of 255 bytes or a long palette, hundreds. A million take seconds.
MOST_HEADER_READS: Final = 20_000


class HeaderTooLong(Exception):
    """Nothing but header, as far as anybody wants to read."""


class Body(BytesIO):
    """Owned by one image; its header is read first, then its pixels."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.ended_early = False
        """Whether more of the header was asked for than there was."""
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
        """Holds these bytes from now on, and is read from their beginning."""
        self.seek(0)
        self.write(content)
        self.truncate()
        self.seek(0)


def body_of(reader: ImageFile) -> Body:
    """The file that a reader was given."""
    body = reader.fp
    if not isinstance(body, Body):
        raise TypeError(body)
    return body
