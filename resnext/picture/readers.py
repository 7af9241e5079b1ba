"""Pillow's reader of each format that is decoded; no other is ever loaded.

`Image.open` would load every plugin that Pillow has, some forty, as soon as it meets a WebP. A
reader is asked directly instead, once the first bytes have said which: no Ghostscript for EPS,
no stubs, no guessing. JPEGs with more than one picture are read as the JPEG that they begin as.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from resnext.picture.file_bytes import Body

Reader = Callable[[Body], ImageFile]


def _heif() -> dict[str, Reader]:
    """Of the extra `heif`, where it is installed."""
    try:
        from pillow_heif import HeifImageFile, options  # noqa: PLC0415
    except ImportError:
        return {}
    options.DECODE_THREADS = 1  # whoever decodes has one core
    return {"HEIF": HeifImageFile}


class _Jpeg(JpegImageFile):
    def _read_dpi_from_exif(self) -> None:
        """Pillow reads a whole EXIF to find the dpi, which nobody asks for: of a hostile one, the
        same megabytes again and again.
        """


READERS: Final[dict[str, Reader]] = {
    "JPEG": _Jpeg,
    "PNG": PngImageFile,
    "WEBP": WebPImageFile,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
    "AVIF": AvifImageFile,
    **_heif(),
}
