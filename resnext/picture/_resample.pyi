# The extension of `_resample.c`; `native` calls it.
from typing import final

import numpy as np
from numpy.typing import NDArray

@final
class Borrowed:
    def __init__(self, schema: object, array: object, rows: int, columns: int, /) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

def weigh(
    in_size: int, out_size: int, begin: int, end: int, interpolation: str, /
) -> tuple[bytes, bytes]: ...
def horizontal(
    source: NDArray[np.uint8],
    out: NDArray[np.uint8],
    first: NDArray[np.int64],
    weights: NDArray[np.int32],
    origin: int,
    /,
) -> None: ...
def vertical(
    source: NDArray[np.uint8],
    out: NDArray[np.uint8],
    first: NDArray[np.int64],
    weights: NDArray[np.int32],
    origin: int,
    /,
) -> None: ...
