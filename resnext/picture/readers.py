"""Pillow's reader of each format that is decoded; no other is ever loaded.

`Image.open` would load every plugin that Pillow has, some forty, as soon as it meets a WebP. A
reader is asked directly instead, once the first bytes have said which: no Ghostscript for EPS,
no stubs, no guessing. JPEGs with more than one picture are read as the JPEG that they begin as.
Each is Pillow's class with what it reads wrongly mended, or refused by name.
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
    """Of the extra `heif`, where it is installed."""
    try:
        from pillow_heif import HeifImageFile, options  # noqa: PLC0415
    except ImportError:
        return {}
    options.DECODE_THREADS = 1  # whoever decodes has one core
    reader: Reader = HeifImageFile

    def read(body: Body) -> ImageFile:
        try:
            return reader(body)
        except SyntaxError as error:  # libheif says nothing of a codec that it has not
            codec = boxes.other_codec(body.getvalue())
            if codec is None:
                raise
            raise Unsupported(f"a HEIF image of {codec}; decoded are those of H.265") from error

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
