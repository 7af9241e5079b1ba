"""From bytes to the pixels that the network sees, by Pillow: in a loader, or for `predict`.

Formats outside the list are refused by name, sizes by the header before memory is taken; of
an animation the first frame counts. Whatever a decoder raises costs this image alone.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from io import BytesIO
from typing import Final, Literal

from PIL import Image, UnidentifiedImageError

from resnext.preprocess import Preprocessing, resize_and_crop, to_rgb
from resnext.resample import Pixels

Route = Literal["exact", "fast"]
"""`exact`: Pillow, as the reference does it; `fast`: see `decode_fast`."""

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")

# First bytes of the formats that are decoded: what has them and is not read is damaged.
_DECODED: Final = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
)
# And of those that are known and not decoded.
_REFUSED: Final = (
    (b"%PDF", "PDF"),
    (b"%!PS", "EPS"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),
    (b"8BPS", "PSD"),
    (b"\x00\x00\x01\x00", "ICO"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"icns", "ICNS"),
    (b"DDS ", "DDS"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"gimp xcf", "XCF"),
)
_HEIF_BRANDS: Final = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
_SNIFFED_BYTES: Final = 1024


@dataclass(frozen=True)
class Decoded:
    pixels: Pixels
    """(crop, crop, 3) uint8."""
    format: str
    width: int
    height: int


class DecodeError(Exception):
    """No picture; `code` is one of too_many_pixels, not_an_image, unsupported_format,
    truncated and decode_error. What the header said is kept.
    """

    def __init__(self, code: str, detail: str = "", header: Image.Image | None = None) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.format = header.format if header else None
        self.size = header.size if header else None


def decode(
    body: bytes, *, max_pixels: int, preprocessing: Preprocessing, route: Route = "exact"
) -> Decoded:
    """
    Args:
        body: a file's bytes.
        max_pixels: width times height, by the header.
        preprocessing: of the network.
        route: what is no JPEG goes the exact one all the same.

    Raises:
        DecodeError: with the failure to be recorded.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged metadata, which decides nothing
        image = _open(body, max_pixels)
        try:
            pixels = _pixels(body, image, preprocessing, route)
        except Exception as error:
            raise as_decode_error(error, image) from error
    return Decoded(pixels, image.format or "", image.width, image.height)


def _pixels(body: bytes, image: Image.Image, preprocessing: Preprocessing, route: Route) -> Pixels:
    if route == "fast":
        from resnext import decode_fast  # noqa: PLC0415  (it brings torch in)

        if decode_fast.fits(image, preprocessing):
            return decode_fast.decode_fast(body, preprocessing)
    image.load()
    return resize_and_crop(to_rgb(image), preprocessing)


def _open(body: bytes, max_pixels: int) -> Image.Image:
    Image.MAX_IMAGE_PIXELS = None  # the limit is ours, and a refusal, not a warning
    try:
        image = Image.open(BytesIO(body), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise _as_unidentified(body) from error
    except Exception as error:
        raise as_decode_error(error, None) from error
    if image.width * image.height > max_pixels:
        raise DecodeError(
            "too_many_pixels",
            f"{image.width}x{image.height}; at most {max_pixels} pixels are decoded",
            image,
        )
    return image


def _as_unidentified(body: bytes) -> DecodeError:
    for magic, name in _DECODED:
        if body.startswith(magic):
            return DecodeError("decode_error", f"begins as a {name}, but its header is damaged")
    refused = _refused_format(body)
    if refused is not None:
        return DecodeError("unsupported_format", f"{refused} is not decoded")
    return DecodeError("not_an_image", "no image format begins like this")


def _refused_format(body: bytes) -> str | None:
    for magic, name in _REFUSED:
        if body.startswith(magic):
            return name
    if body[4:8] == b"ftyp" and body[8:12] in _HEIF_BRANDS:
        return "HEIF"
    if b"<svg" in body[:_SNIFFED_BYTES].lower():
        return "SVG"
    return None


def as_decode_error(error: Exception, image: Image.Image | None) -> DecodeError:
    """What a decoder raised, as one of the codes."""
    if isinstance(error, MemoryError):
        return DecodeError("too_many_pixels", "more memory than a loader may take", image)
    words = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, EOFError) or "truncated" in words.lower():
        return DecodeError("truncated", words, image)
    return DecodeError("decode_error", words, image)
