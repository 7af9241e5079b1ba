# The extension of `_resample.c`; `native` calls it.
from typing import final

from typing_extensions import Buffer

@final
class Borrowed:
    def __init__(self, schema: object, array: object, rows: int, columns: int, /) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

def weigh(
    in_size: int, out_size: int, begin: int, end: int, interpolation: str, /
) -> tuple[bytes, bytes]: ...
def horizontal(
    source: Buffer, out: Buffer, first: Buffer, weights: Buffer, origin: int, /
) -> None: ...
def vertical(
    source: Buffer, out: Buffer, first: Buffer, weights: Buffer, origin: int, /
) -> None: ...
