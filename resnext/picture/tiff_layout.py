"""The list of supported TIFF layouts, each of which is tested.

A TIFF may have any number, depth, order and compression of samples. Pillow reads many of them
wrongly without an error. So the reader checks here first, and refuses other layouts by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from resnext.picture import tiff_tags as tags
from resnext.picture.refusals import Unsupported
from resnext.picture.tiff_tags import TiffTags

_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_FORMATS: Final = {_UNSIGNED: "", _SIGNED: " signed", _FLOAT: " floating-point"}
_WHITE_IS_ZERO, _GREY, _RGB, _PALETTE, _INKS, _YCC, _LAB = 0, 1, 2, 3, 5, 6, 8
_PHOTOMETRICS: Final = {
    _WHITE_IS_ZERO: "grey with white as zero", _GREY: "grey", _RGB: "RGB", _PALETTE: "a palette",
    4: "a mask", _INKS: "inks", _YCC: "YCbCr", _LAB: "CIE L*a*b*", 9: "ICC L*a*b*",
    10: "ITU L*a*b*", 32803: "a camera's raw colours", 32844: "LogL", 32845: "LogLuv",
    34892: "a camera's linear colours",
}  # fmt: skip
_COLOURS: Final = {_WHITE_IS_ZERO: 1, _GREY: 1, _RGB: 3, _PALETTE: 1, _INKS: 4, _YCC: 3, _LAB: 3}
"""The number of samples per pixel, without extra ones."""

_UNCOMPRESSED, _OLD_JPEG, _JPEG = 1, 6, 7
_CCITT: Final = frozenset({2, 3, 4})
_PREDICTED: Final = frozenset({5, 8, 32946, 34925, 50000})
"""Compressions that may have a predictor: LZW, deflate (two numbers), LZMA, zstd."""
_LOSSLESS: Final = frozenset({_UNCOMPRESSED, 32773, *_PREDICTED})
_COMPRESSIONS: Final = {
    1: "uncompressed", 2: "CCITT RLE", 3: "CCITT group 3", 4: "CCITT group 4", 5: "LZW",
    6: "JPEG of the old kind", 7: "JPEG", 8: "deflate", 9: "JBIG", 10: "JBIG", 32771: "CCITT RLE",
    32773: "PackBits", 32809: "ThunderScan", 32946: "deflate", 33003: "JPEG 2000",
    33005: "JPEG 2000", 34661: "JBIG", 34676: "SGI log", 34677: "SGI log", 34712: "JPEG 2000",
    34887: "LERC", 34892: "lossy JPEG", 34925: "LZMA", 50000: "zstd", 50001: "WebP",
    50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip
_BY_DIFFERENCES, _BY_FLOATS = 2, 3

# The kind of an extra sample: 0 is unspecified, 1 is alpha by which the colours are multiplied, 2
# is alpha. RGB with four samples and no entry has alpha.
_UNSAID: Final = -1
_NO: Final = frozenset[tuple[int, ...]]({()})
_ONE: Final = frozenset({(), (0,), (1,), (2,)})
_EXTRAS: Final[dict[tuple[int, int, int], frozenset[tuple[int, ...]]]] = {
    **{(_WHITE_IS_ZERO, bits, _UNSIGNED): _NO for bits in (1, 2, 4, 8)},
    **{(_GREY, bits, _UNSIGNED): _NO for bits in (1, 2, 4, 16, 32)},
    (_GREY, 8, _UNSIGNED): _ONE,
    **{(_GREY, bits, _SIGNED): _NO for bits in (16, 32)},
    (_GREY, 32, _FLOAT): _NO,
    (_RGB, 8, _UNSIGNED): _ONE
    | {(_UNSAID,), (0, 0), (1, 0), (2, 0), (0, 0, 0), (1, 0, 0), (2, 0, 0)},
    (_RGB, 16, _UNSIGNED): _ONE | {(_UNSAID,)},
    **{(_PALETTE, bits, _UNSIGNED): _NO for bits in (1, 2, 4)},
    (_PALETTE, 8, _UNSIGNED): frozenset({(), (0,), (2,)}),
    (_INKS, 8, _UNSIGNED): frozenset({(), (0,), (0, 0)}),
    (_INKS, 16, _UNSIGNED): _NO,
    (_YCC, 8, _UNSIGNED): _NO,
    (_LAB, 8, _UNSIGNED): _NO,
}
"""Photometric, bits and format of the samples → the permitted extra samples."""

_NO_MIRRORED: Final = frozenset({(_WHITE_IS_ZERO, 8), *((_PALETTE, bits) for bits in (1, 2, 4))})
"""Photometric and bits for which Pillow's own code does not mirror bytes."""
_SAMPLINGS: Final = frozenset({(2, 1), (2, 2), (4, 1), (4, 2), (4, 4), (1, 2)})
"""How many pixels, across and down, share a colour. libtiff supports these."""
_WEIGHTS: Final = ((299, 1000, 587, 1000, 114, 1000), (299, 1000, 587, 1000, 57, 500))
_RANGE: Final = (0, 1, 255, 1, 128, 1, 255, 1, 128, 1, 255, 1)
_BYTE: Final = 8


@dataclass(frozen=True)
class _Layout:
    big_endian: bool
    big: bool
    photometric: int
    bits: tuple[int, ...]
    """The bits of each sample of a pixel."""
    formats: tuple[int, ...]
    extra: tuple[int, ...]
    compression: int
    planes: bool
    """Whether each sample is in a separate part."""
    predictor: int
    mirrored: bool
    """Whether a byte's first pixel is in its lowest bits."""
    usual: bool
    """Whether inks are cyan, magenta, yellow and black, and YCbCr is weighed as in JPEG."""
    whole_stream: bool
    """Whether JPEG of the old kind is one stream, like in a JPEG file."""

    def __str__(self) -> str:
        depth = "/".join(map(str, dict.fromkeys(self.bits)))
        formats = "".join(_FORMATS.get(n, f" format-{n}") for n in dict.fromkeys(self.formats))
        parts = [
            _PHOTOMETRICS.get(self.photometric, f"photometric {self.photometric}"),
            f"{len(self.bits)} x {depth}{formats} bits",
            _COMPRESSIONS.get(self.compression, f"compression {self.compression}"),
            *(["a predictor"] if self.predictor > 1 else []),
            *(["separate planes"] if self.planes else []),
            *(["mirrored bytes"] if self.mirrored else []),
            *([] if self.usual else ["unusual inks or subsampling"]),
            "big-endian" if self.big_endian else "little-endian",
        ]
        return f"a {'Big' * self.big}TIFF of {', '.join(parts)}"


def check(found: TiffTags) -> None:
    """Checks the layout of a TIFF's pixels.

    Raises:
        Unsupported: the layout is not on the list.
    """
    layout = _layout(found)
    if not _is_decoded(layout):
        raise Unsupported(f"{layout}; docs/reference.md lists the supported TIFFs")


def _layout(found: TiffTags) -> _Layout:
    samples = found.one(tags.SAMPLES, 1)
    if not 0 < samples <= tags.MOST_FEW:
        raise Unsupported(f"a TIFF with {samples} samples per pixel")
    photometric = found.one(tags.PHOTOMETRIC, _WHITE_IS_ZERO)
    bits = found.numbers.get(tags.BITS, (1,))
    extra = found.numbers.get(tags.EXTRA, ())
    if photometric == _RGB and samples == 4 and not extra:  # noqa: PLR2004
        extra = (_UNSAID,)
    return _Layout(
        big_endian=found.big_endian,
        big=found.big,
        photometric=photometric,
        bits=bits * samples if len(bits) == 1 else bits,
        formats=found.numbers.get(tags.FORMAT, (_UNSIGNED,)),
        extra=extra,
        compression=found.one(tags.COMPRESSION, _UNCOMPRESSED),
        planes=samples > 1 and found.one(tags.PLANES, 1) != 1,
        predictor=found.one(tags.PREDICTOR, 1),
        mirrored=found.one(tags.FILL_ORDER, 1) != 1,
        usual=_is_usual(found, photometric),
        whole_stream=tags.OLD_STREAM in found.numbers,
    )


def _is_usual(found: TiffTags, photometric: int) -> bool:
    if photometric == _INKS:
        return found.one(tags.INKS, 1) == 1
    compression = found.one(tags.COMPRESSION, _UNCOMPRESSED)
    if photometric != _YCC or compression in {_OLD_JPEG, _JPEG}:  # the JPEG contains these values
        return True
    sampling = found.numbers.get(tags.YCC_SAMPLING, (2, 2))
    return (
        (sampling == (1, 1) or (compression != _UNCOMPRESSED and sampling in _SAMPLINGS))
        and found.numbers.get(tags.YCC_WEIGHTS, _WEIGHTS[0]) in _WEIGHTS
        and found.numbers.get(tags.BLACK_AND_WHITE, _RANGE) in {_RANGE, _RANGE[::2]}
    )


def _is_decoded(layout: _Layout) -> bool:
    colours = _COLOURS.get(layout.photometric)
    if colours is None or len(set(layout.bits)) != 1 or len(set(layout.formats)) != 1:
        return False
    kind = (layout.photometric, layout.bits[0], layout.formats[0])
    return (
        len(layout.bits) == colours + len(layout.extra)
        and layout.extra in _EXTRAS.get(kind, ())
        and layout.usual
        and _is_order_decoded(layout)
        and _is_compression_decoded(layout)
        and (not layout.planes or _are_planes_decoded(layout))
        and (not layout.mirrored or _are_mirrored_bytes_decoded(layout))
    )


def _is_order_decoded(layout: _Layout) -> bool:
    if not layout.big_endian:
        return True
    if layout.big:  # Pillow reads it as a small one
        return False
    bits, sample_format = layout.bits[0], layout.formats[0]
    if bits == 32 and sample_format == _UNSIGNED:  # noqa: PLR2004
        return False
    # libtiff puts the bytes of a sample in order, and Pillow then swaps them again.
    as_it_is = bits <= _BYTE or sample_format == _UNSIGNED
    return as_it_is or layout.compression == _UNCOMPRESSED


def _is_compression_decoded(layout: _Layout) -> bool:
    bits = layout.bits[0]
    if layout.compression in _CCITT:
        return bits == len(layout.bits) == 1 and layout.photometric != _PALETTE
    if layout.compression == _OLD_JPEG:
        return layout.photometric == _YCC and layout.whole_stream and not layout.planes
    if layout.compression == _JPEG:
        of_jpeg = layout.photometric in {_GREY, _RGB, _YCC, _INKS}
        return of_jpeg and bits == _BYTE and not layout.extra and not layout.planes
    if layout.compression in _PREDICTED and layout.predictor != 1:
        if layout.formats[0] == _FLOAT:
            return layout.predictor == _BY_FLOATS
        return layout.predictor == _BY_DIFFERENCES and bits >= _BYTE
    return layout.compression in _LOSSLESS


def _are_planes_decoded(layout: _Layout) -> bool:
    if layout.photometric not in {_RGB, _INKS}:
        return False
    if layout.compression == _UNCOMPRESSED:
        return layout.bits[0] == _BYTE and layout.extra in {(), (2,)}
    return layout.extra in _ONE


def _are_mirrored_bytes_decoded(layout: _Layout) -> bool:
    if layout.photometric not in {_WHITE_IS_ZERO, _GREY, _PALETTE, _RGB}:
        return False
    plain = layout.bits[0] <= _BYTE and not layout.extra and not layout.planes
    kind = (layout.photometric, layout.bits[0])
    return plain and (layout.compression != _UNCOMPRESSED or kind not in _NO_MIRRORED)
