"""From bytes to the pixels that the network sees, with Pillow: in a loader, or for `predict`.

Formats outside the list are refused by name, and sizes by the header, before memory is taken. The
first frame of an animation is used. Any error of a decoder affects only this image.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

from PIL import Image, ImageFile
from PIL.TiffImagePlugin import (
    STRIPBYTECOUNTS,
    STRIPOFFSETS,
    TILEBYTECOUNTS,
    TILELENGTH,
    TILEOFFSETS,
    TILEWIDTH,
    TiffImageFile,
)

from resnext.picture.boxes import coded_pixels
from resnext.picture.file_bytes import MOST_HEADER_READS, Body, HeaderTooLong
from resnext.picture.formats import NAMES, decoded_formats, guess, is_cut, refused_format, sniff
from resnext.picture.orientation import UPRIGHT, Orientation, orientation_of, turned_size
from resnext.picture.preprocess import Preprocessing, resize_and_crop, to_rgb
from resnext.picture.readers import READERS
from resnext.picture.refusals import Damaged, Unsupported
from resnext.picture.resample import Pixels
from resnext.picture.turn import turned

Route = Literal["exact", "fast"]
"""`exact`: Pillow, like the reference; `fast`: see `decode_fast`."""
Truncated = Literal["refuse", "accept"]

MAX_WORDS: Final = 200
"""The longest message of a decoder. Our own details are shorter."""
_ADDRESS: Final = re.compile(r"<[^<>]* at 0x[0-9a-f]+>")
_TRUNCATED: Final = re.compile(r"truncated(?! \w+ chunk)", re.IGNORECASE)
# Pillow's messages for files that are sound, but of a kind that it does not read.
_UNSUPPORTED: Final = re.compile(
    "unknown pixel mode|unsupported (bmp|codec|feature|image type)|not yet supported",
    re.IGNORECASE,
)

# Errors whose messages describe the file. Python's own, such as an index out of range, do not.
_SPEAKING: Final = (
    OSError,
    ValueError,
    SyntaxError,
    RuntimeError,
    Image.DecompressionBombError,
    Unsupported,
    Damaged,
)


@dataclass(frozen=True, kw_only=True)
class DecodeLimits:
    """The limits for one image, from the settings with the same names."""

    max_pixels: int = 100_000_000
    max_side_pixels: int = 65_535
    truncated: Truncated = "refuse"


@dataclass(frozen=True)
class Decoded:
    pixels: Pixels
    """(crop, crop, 3) uint8."""
    format: str
    width: int
    """The size of the picture before the resize, after it was turned."""
    height: int


class DecodeError(Exception):
    """The file could not be decoded. `code` is one of too_many_pixels, not_an_image,
    unsupported_format, truncated and decode_error. The error keeps what the header said.
    """

    def __init__(self, code: str, detail: str = "", header: Image.Image | None = None) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.format = header.format if header else None
        self.size = header.size if header else None


def decode(
    content: bytes,
    *,
    limits: DecodeLimits,
    preprocessing: Preprocessing,
    route: Route = "exact",
    orientation: Orientation = "ignore",
) -> Decoded:
    """Decodes a file and prepares it for the network.

    Args:
        content: the file's bytes.
        limits: the limits for the picture, which are checked with its header.
        preprocessing: the network's preprocessing.
        route: the way to decode. Files other than JPEGs always take the exact one.
        orientation: whether to apply EXIF in a JPEG, PNG or WebP. The orientation that is part of
            TIFF, AVIF and HEIF is always applied.

    Raises:
        DecodeError: the file cannot be decoded.
    """
    with warnings.catch_warnings(), _pillow_within(limits):
        warnings.simplefilter("ignore")  # they are about damaged metadata, which is not used
        name = sniff(content)
        if name not in READERS:
            raise _as_stranger(content, name)
        body = Body(content)
        image = _open(body, name)
        _check_size(image, content, limits)
        body.begin_pixels()
        try:
            pixels = _pixels(content, image, preprocessing, route, orientation)
        except Exception as error:
            cut = body.ended_early or _is_cut(content, image)
            raise as_decode_error(error, image, cut=cut) from error
    width, height = turned_size(image.width, image.height, _turn_of(image, orientation))
    return Decoded(pixels, image.format or "", width, height)


@contextmanager
def _pillow_within(limits: DecodeLimits) -> Iterator[None]:
    """Sets Pillow's settings, and restores them: they are global, and other code may use them."""
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    # Pillow's error comes at twice this, before a canvas takes memory while the header is read.
    Image.MAX_IMAGE_PIXELS = (limits.max_pixels + 1) // 2
    ImageFile.LOAD_TRUNCATED_IMAGES = limits.truncated == "accept"
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = before


def _pixels(
    content: bytes,
    image: Image.Image,
    preprocessing: Preprocessing,
    route: Route,
    orientation: Orientation,
) -> Pixels:
    if route == "fast":
        from resnext.picture import decode_fast  # noqa: PLC0415  (loads torch)

        if decode_fast.fits(image, preprocessing):
            try:
                value = _turn_of(image, orientation)
                return decode_fast.decode_fast(content, preprocessing, value)
            except RuntimeError:  # the exact route may be able to read it, or explains why not
                pass
    image.load()
    upright = turned(to_rgb(image), _turn_of(image, orientation))
    return resize_and_crop(upright, preprocessing)


def _turn_of(image: Image.Image, orientation: Orientation) -> int:
    """The orientation to apply, 1 to 8. Call it after loading: a PNG's may follow its pixels."""
    return orientation_of(image) if orientation == "exif" else UPRIGHT


def _open(body: Body, name: str) -> ImageFile.ImageFile:
    """Reads only the header."""
    try:
        return READERS[name](body)
    except Exception as error:
        cut = body.ended_early or is_cut(body.getvalue(), name)
        found = as_decode_error(error, None, cut=cut)
        if found.code != "decode_error":
            raise found from error
        known = f"begins as {NAMES.get(name, name)}, but its header is damaged"
        raise DecodeError("decode_error", f"{known}: {found.detail}") from error


def _check_size(image: Image.Image, content: bytes, limits: DecodeLimits) -> None:
    width, height = image.size
    if width * height > limits.max_pixels:
        limit = f"at most {limits.max_pixels} pixels are decoded"
    elif max(width, height) > limits.max_side_pixels:
        limit = f"a side has at most {limits.max_side_pixels} pixels"
    elif (coded := _coded_pixels(image, content)) > limits.max_pixels:
        limit = f"cut out of {coded} pixels; at most {limits.max_pixels} are decoded"
    else:
        return
    raise DecodeError("too_many_pixels", f"{width}x{height}; {limit}", image)


def _coded_pixels(image: Image.Image, content: bytes) -> int:
    """The pixels that must be decoded, if they may be more than the picture's: a small TIFF may be
    in one huge tile, and a small HEIF may be a corner of a huge picture.
    """
    if not isinstance(image, TiffImageFile):
        return coded_pixels(content) if image.format in {"AVIF", "HEIF"} else 0
    width, height = _tag(image, TILEWIDTH), _tag(image, TILELENGTH)
    return width * height if isinstance(width, int) and isinstance(height, int) else 0


def _is_cut(content: bytes, image: Image.Image) -> bool:
    """Whether the file ends before its pixels do, if its header says where they are."""
    if not isinstance(image, TiffImageFile):
        return is_cut(content, image.format or "")
    begins = _integers(image, STRIPOFFSETS) or _integers(image, TILEOFFSETS)
    lengths = _integers(image, STRIPBYTECOUNTS) or _integers(image, TILEBYTECOUNTS)
    return any(b + n > len(content) for b, n in zip(begins, lengths, strict=False))


def _integers(image: TiffImageFile, tag: int) -> tuple[int, ...]:
    """The integers in a tag. Empty if it contains anything else."""
    values = _tag(image, tag)
    if isinstance(values, tuple) and all(isinstance(value, int) for value in values):
        return values
    return ()


def _tag(image: TiffImageFile, tag: int) -> object:
    """A tag's value, or None if it is missing or cannot be read."""
    try:
        return image.tag_v2.get(tag)
    except Exception:  # noqa: BLE001  (Pillow reads it only now, and it may be anything)
        return None


def _as_stranger(content: bytes, name: str | None) -> DecodeError:
    if name is not None:
        extra = f"the extra {name.lower()!r} of resnext-queue"
        return DecodeError("unsupported_format", f"a {name} image; {extra} decodes it")
    if (refused := refused_format(content)) is not None:
        return DecodeError("unsupported_format", f"{refused}; supported are {decoded_formats()}")
    return DecodeError("not_an_image", guess(content))


def as_decode_error(
    error: Exception, image: Image.Image | None, *, cut: bool = False
) -> DecodeError:
    """Turns a decoder's error into one with a code. `cut` says that the file ends early."""
    words = _words(error)
    match error:
        case DecodeError():
            return error
        case MemoryError():
            code, words = "too_many_pixels", "more memory than a loader may take"
        case Image.DecompressionBombError():
            words = words.partition(" exceeds")[0]
            code, words = "too_many_pixels", f"{words}; RESNEXT_MAX_PIXELS permits fewer"
        case HeaderTooLong():
            code, words = "decode_error", f"more than {MOST_HEADER_READS} parts before its pixels"
        case Unsupported():
            code = "unsupported_format"
        case Damaged():
            code = "decode_error"
        case _ if isinstance(error, EOFError) or _TRUNCATED.search(words):
            code = "truncated"
        case _ if cut:
            code, words = "truncated", "the file ends before its image does"
        case _:
            code = "unsupported_format" if _UNSUPPORTED.search(words) else "decode_error"
    return DecodeError(code, words, image)


def _words(error: BaseException) -> str:
    """A decoder's message, as one printable line. With a hostile file it may be anything."""
    cause = error.__cause__
    if isinstance(error, SyntaxError) and cause is not None and error.args == (cause,):
        error = cause  # Pillow wraps errors in this way
    if not isinstance(error, _SPEAKING) or not str(error):
        return "its parts contradict each other"
    words = _ADDRESS.sub("the file", str(error).splitlines()[0])
    return "".join(filter(str.isprintable, words))[:MAX_WORDS]
