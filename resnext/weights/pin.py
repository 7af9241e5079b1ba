"""The SHA-256 of downloaded weights, pinned by their first use: kept beside their file.

NVIDIA publishes no hash of its file, and others no more than its first digits. So the first file
that loads is trusted, and every later load and download must give the same. `load_network` pins;
`doctor` shows it. The form is that of `sha256sum`, so `sha256sum -c` checks it, too.
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
    """Where the pin of a weights file is."""
    return weights.with_name(f"{weights.name}.sha256")


def read_pin(weights: Path) -> str | None:
    """The pinned SHA-256 in hex; None where none is pinned yet.

    Raises:
        WeightsError: the pin cannot be read, or is none.
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
            f"The pin {path} holds no SHA-256. Delete it; the weights that load next are pinned."
        )
    return line[1]


def check_pin(weights: Path, digest: str) -> None:
    """
    Args:
        weights: the file, which need not be there yet.
        digest: its SHA-256 in hex.

    Raises:
        DamagedWeights: another file was pinned.
        WeightsError: see `read_pin`.
    """
    pinned = read_pin(weights)
    if pinned not in {None, digest}:
        raise DamagedWeights(
            f"Weights {weights}: SHA-256 is {digest}, and was {pinned} at the first use. The file "
            f"is damaged, or its publisher has replaced it. Delete {weights} to have it downloaded "
            f"again; if you trust the new one, delete {pin_file(weights)} instead."
        )


def pin(weights: Path, digest: str) -> None:
    """Pins the SHA-256 of weights that have loaded, where none is pinned yet.

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
    except OSError as error:  # such as a cache that is read-only
        logger.info("The SHA-256 of %s is not pinned: %s", weights, error)
