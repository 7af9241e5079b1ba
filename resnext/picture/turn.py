"""Turns a picture as its file asks. There are eight orientations, in TIFF as well as in EXIF.

The readers of TIFF and AVIF call `turn_in_place`, because there the orientation is part of the
format. `decode` and `Classifier` call `turned` with the value that `orientation` has read in EXIF.
"""

from __future__ import annotations

from typing import Final

from PIL import Image

ORIENTATION_TAG: Final = 0x0112
# Orientation (TIFF 6.0, section 8) → the turn that puts the first row on top, the first column
# left.
TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """Returns the turned picture, or the same object if no turn is needed."""
    method = TURNS.get(orientation)
    return image if method is None else image.transpose(method)


def turn_in_place(image: Image.Image, orientation: object) -> None:
    """Turns a loaded picture. 1 and invalid orientations leave it unchanged."""
    method = TURNS.get(orientation) if isinstance(orientation, int) else None
    if method is not None:
        image.im = image.im.transpose(method)
        image._size = image.im.size  # noqa: SLF001  (like Pillow's own `exif_transpose`)
