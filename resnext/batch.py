"""`Classify`: a batch of columns in, answers out. It is for engines that run functions over data.

    from resnext.batch import Classify

    dataset.map(Classify("image", keep=()), batched=True, features=…)         # datasets
    dataset.map_batches(Classify, fn_constructor_kwargs={"column": "bytes"})  # Ray Data

docs/python.md has complete examples, with types. Engines copy the object to their processes. Each
copy loads the network at its first batch, so neither this module nor copying loads torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypedDict, Unpack

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from resnext.classifier import Answer, Classifier, Picture
    from resnext.picture.orientation import Orientation
    from resnext.run.engine import Engine

TOP: Final = 5
_CHANNELS: Final = (1, 3, 4)


class Options(TypedDict, total=False):
    """Options of `resnext.load_classifier`."""

    model: str
    weights: str | None
    precision: Literal["amp", "fp32"]
    device: str
    engine: Engine | Literal["auto"]
    cache: Path | None
    batch_images: int | None
    threads: int | None
    orientation: Orientation


class _Unfit(NamedTuple):
    """A value that is not a picture."""

    error: str


class Classify:
    """Classifies the pictures of a batch. A picture that fails does not affect the others."""

    def __init__(
        self,
        column: str = "image",
        *,
        keep: Sequence[str] | None = None,
        top: int = TOP,
        **options: Unpack[Options],
    ) -> None:
        """
        Args:
            column: the column with the pictures: bytes of files, uint8 arrays (H, W), (H, W, 1),
                (H, W, 3) or (H, W, 4), Pillow images, paths, or objects with `bytes` or `path`.
            keep: the columns to return with the answers. None: all except the pictures.
            top: the number of classes, 1 to 5.
            options: the options of `resnext.load_classifier`.

        Raises:
            ValueError: `top` is out of range.
        """
        if not 1 <= top <= TOP:
            raise ValueError(f"top must be from 1 to {TOP}, got {top}.")
        self._column = column
        self._keep = None if keep is None else tuple(keep)
        self._top = top
        self._options = options
        self._clear()

    @property
    def columns(self) -> dict[str, type]:
        """Names and types of the answers' columns, as in `resnextq results --format parquet`.

        `label_1` is the most likely class. Missing values are null.
        """
        ranks = range(1, self._top + 1)
        return {
            **{f"label_{rank}": str for rank in ranks},
            **{f"class_{rank}": int for rank in ranks},
            **{f"score_{rank}": float for rank in ranks},
            "error_code": str,
            "error_detail": str,
        }

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Classifies a batch.

        Args:
            batch: columns of equal length N by name.

        Returns:
            The kept columns, unchanged, and the answers: lists of N values.

        Raises:
            ValueError: a column is missing, or a kept column has the name of an answer's column.
            ModelError: at the first batch; see `resnext.errors`.
        """
        kept = self._kept(batch)
        answers = self._answers([_as_picture(value) for value in batch[self._column]])
        return kept | self._as_columns(answers)

    def __getstate__(self) -> dict[str, Any]:
        """The state of a copy in another process. It has no network."""
        return {name: self.__dict__[name] for name in ("_column", "_keep", "_top", "_options")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._clear()

    def _clear(self) -> None:
        self._classifier: Classifier | None = None
        self._lock = Lock()

    def _kept(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        others = [name for name in batch if name != self._column]
        kept = others if self._keep is None else self._keep
        for name in (self._column, *kept):
            if name not in batch:
                raise ValueError(
                    f"The batch has no column {name!r}. Columns: {', '.join(map(repr, batch))}."
                )
        for name in self.columns:
            if name in kept:
                raise ValueError(
                    f"The batch has a column {name!r}, which is also a column of the answers. "
                    "Rename it, or leave it out of `keep`."
                )
        return {name: batch[name] for name in kept}

    def _answers(self, pictures: Sequence[Picture | _Unfit]) -> Iterator[Answer | _Unfit]:
        fit = [picture for picture in pictures if not isinstance(picture, _Unfit)]
        with self._lock:  # only one thread may use a network at once
            found = iter(self._load().predict(fit))
        for picture in pictures:
            yield picture if isinstance(picture, _Unfit) else next(found)

    def _load(self) -> Classifier:
        if self._classifier is None:
            from resnext.classifier import load_classifier  # noqa: PLC0415  (loads torch)

            self._classifier = load_classifier(**self._options)
        return self._classifier

    def _as_columns(self, answers: Iterator[Answer | _Unfit]) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = {name: [] for name in self.columns}
        for answer in answers:
            guesses = () if isinstance(answer, _Unfit) else answer.top5
            code, _, detail = (answer.error or "").partition(": ")
            row: dict[str, Any] = {"error_code": code or None, "error_detail": detail or None}
            for rank, guess in enumerate(guesses[: self._top], start=1):
                row |= {
                    f"label_{rank}": guess.label,
                    f"class_{rank}": guess.class_id,
                    f"score_{rank}": guess.score,
                }
            for name, values in columns.items():
                values.append(row.get(name))
        return columns


def _as_picture(value: object) -> Picture | _Unfit:
    if isinstance(value, Mapping):  # an undecoded picture of `datasets`
        value = value.get("path") if value.get("bytes") is None else value.get("bytes")
    if isinstance(value, bytes | str | os.PathLike | Image.Image):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, np.ndarray):
        return _of_array(value)
    return _Unfit(f"unreadable: {'no picture' if value is None else type(value).__name__}")


def _of_array(array: np.ndarray) -> Image.Image | _Unfit:
    is_grey = array.ndim == 2  # noqa: PLR2004
    has_channels = array.ndim == 3 and array.shape[2] in _CHANNELS  # noqa: PLR2004
    if array.dtype != np.uint8 or not (is_grey or has_channels):
        return _Unfit(
            f"unreadable: an array {array.shape} of {array.dtype}; a picture must be uint8, with "
            "the shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
        )
    return Image.fromarray(array[:, :, 0] if has_channels and array.shape[2] == 1 else array)
