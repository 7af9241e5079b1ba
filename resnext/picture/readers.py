"""Pillow's reader for each supported format. No other reader is ever loaded.

`Image.open` would load all of Pillow's some forty plugins as soon as it meets a WebP. Instead, the
first bytes select a reader, which is called directly: no Ghostscript for EPS, no stubs, no
guessing. A JPEG with several pictures is read as its first one. Each reader is Pillow's class with
its errors corrected, or refusing by name what it reads wrongly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from PIL.ImageFile import ImageFile

from resnext.picture import boxes
from resnext.picture.avif import Avif
from resnext.picture.bmp import Bmp
from resnext.picture.file_bytes import Body
from resnext.picture.first_frame import Gif, WebP
from resnext.picture.jpeg import Jpeg
from resnext.picture.png import Png
from resnext.picture.refusals import Unsupported
from resnext.picture.tiff import Tiff

Reader = Callable[[Body], ImageFile]


def _heif() -> dict[str, Reader]:
    """The reader of the extra `heif`, if that is installed."""
    try:
        from pillow_heif import HeifImageFile, options  # noqa: PLC0415
    except ImportError:
        return {}
    options.DECODE_THREADS = 1  # each decoder has one core
    reader: Reader = HeifImageFile

    def read(body: Body) -> ImageFile:
        try:
            return reader(body)
        except SyntaxError as error:  # libheif does not report an unsupported codec
            codec = boxes.other_codec(body.getvalue())
            if codec is None:
                raise
            raise Unsupported(f"a HEIF image of {codec}; only H.265 is supported") from error

    return {"HEIF": read}


READERS: Final[dict[str, Reader]] = {
    "JPEG": Jpeg,
    "PNG": Png,
    "WEBP": WebP,
    "GIF": Gif,
    "BMP": Bmp,
    "TIFF": Tiff,
    "AVIF": Avif,
    **_heif(),
}
