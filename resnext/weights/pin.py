"""Pins the SHA-256 of downloaded weights at their first use, in a file beside them.

NVIDIA publishes no hash of its file, and others only the first digits. So the first file that loads
is trusted, and every later load and download must have the same hash. `load_network` pins it, and
`doctor` shows it. The file has the format of `sha256sum`, so `sha256sum -c` can check it.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from secrets import token_hex
from typing import Final

from resnext.errors import DamagedWeights, WeightsError
from resnext.weights.own_file import open_own, read_text

_LINE: Final = re.compile(r"([0-9a-f]{64})  .*\n?")

logger = logging.getLogger(__name__)


def pin_file(weights: Path) -> Path:
    """The path of the pin for a weights file."""
    return weights.with_name(f"{weights.name}.sha256")


def read_pin(weights: Path) -> str | None:
    """Returns the pinned SHA-256 in hex, or None if none is pinned yet.

    Raises:
        WeightsError: the pin cannot be read or is invalid.
    """
    path = pin_file(weights)
    try:
        text = read_text(path)
    except OSError as error:
        raise WeightsError(f"The pin {path} cannot be read: {error}.") from error
    if not text:
        return None
    line = _LINE.fullmatch(text)
    if line is None:
        raise WeightsError(
            f"The pin {path} contains no SHA-256. Delete it. The next weights that load are pinned."
        )
    return line[1]


def check_pin(weights: Path, digest: str) -> None:
    """Compares weights with their pin.

    Args:
        weights: the file, which need not exist yet.
        digest: its SHA-256 in hex.

    Raises:
        DamagedWeights: another file was pinned.
        WeightsError: see `read_pin`.
    """
    pinned = read_pin(weights)
    if pinned not in {None, digest}:
        raise DamagedWeights(
            f"Weights {weights}: the SHA-256 is {digest}, but was {pinned} at the first use. The "
            f"file is damaged, or its publisher has replaced it. Delete {weights} to download it "
            f"again. If you trust the new file, delete {pin_file(weights)} instead."
        )


def pin(weights: Path, digest: str) -> None:
    """Pins the SHA-256 of weights that have loaded, unless one is pinned already.

    Raises:
        WeightsError: see `read_pin`.
    """
    if read_pin(weights) is not None:
        return
    path = pin_file(weights)
    part = path.with_name(f"{path.name}.{token_hex(4)}.part")
    try:
        with open_own(part) as file:
            file.write(f"{digest}  {weights.name}\n".encode())
        part.replace(path)
    except OSError as error:  # for example, the cache is read-only
        logger.info("The SHA-256 of %s could not be pinned: %s", weights, error)
