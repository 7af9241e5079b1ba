"""The outcome for a file: its reader's pixels, before any resize, or its refusal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from resnext.picture.decode import DecodeError, DecodeLimits, decode
from resnext.picture.file_bytes import Body
from resnext.picture.preprocess import to_rgb
from resnext.picture.readers import READERS
from tests.pictures.decoder import PREPROCESSING


def rgb_of(name: str, body: bytes) -> NDArray[Any]:
    """(height, width, 3) int; `name` is a key of the readers."""
    file = Body(body)
    image = READERS[name](file)
    file.begin_pixels()
    image.load()
    return np.asarray(to_rgb(image)).astype(int)


def refusal(body: bytes) -> str:
    """The error code and detail of a file that is refused."""
    with pytest.raises(DecodeError) as refused:
        decode(body, limits=DecodeLimits(), preprocessing=PREPROCESSING)
    return str(refused.value)
