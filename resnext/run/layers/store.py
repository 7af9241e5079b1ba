"""Keeps measurements over restarts, in a file for each device, set of versions and network.

If a file is missing, damaged or about something else, it is ignored and its layers are measured
again. Several processes may write at once. The last one's file stays, and each file is complete.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

from resnext.run.layers.choice import Candidate, Choice
from resnext.run.layers.shape import ConvShape
from resnext.weights.own_file import open_own, read_text

_FORM: Final = 1
"""The file's version. Files with another version are ignored."""

logger = logging.getLogger(__name__)


class Store:
    """Owns the file."""

    def __init__(self, folder: Path | None, about: Mapping[str, str]) -> None:
        """
        Args:
            folder: the cache's folder. None: nothing is kept.
            about: what the measurements depend on. Those of another device or version are ignored.
        """
        self._about = dict(about) | {"form": str(_FORM)}
        digest = hashlib.sha256(json.dumps(self._about, sort_keys=True).encode()).hexdigest()
        self.path = None if folder is None else folder / "layers" / f"{digest[:16]}.json"
        self._choices = _by_layer(self._read())

    def find(self, shape: ConvShape | None, images: int) -> Choice | None:
        return self._choices.get((shape, images))

    def add(self, choices: Iterable[Choice]) -> None:
        """Adds choices. Keeps those that another process has added meanwhile."""
        self._choices = _by_layer(self._read()) | self._choices | _by_layer(choices)
        if self.path is not None:
            self._write(self.path)

    def _read(self) -> list[Choice]:
        if self.path is None:
            return []
        try:
            text = read_text(self.path)
            return _choices_of(json.loads(text), self._about) if text else []
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            logger.warning("%s cannot be used and is replaced: %s", self.path, error)
            return []

    def _write(self, path: Path) -> None:
        part = path.with_name(f"{path.name}.{token_hex(4)}.part")
        content = {"about": self._about, "choices": [asdict(one) for one in self._choices.values()]}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open_own(part) as file:
                file.write(json.dumps(content, indent=1).encode())
            part.replace(path)
        except OSError as error:  # for example, the cache is read-only
            logger.info("The measurements could not be saved in %s: %s", path, error)


def _by_layer(choices: Iterable[Choice]) -> dict[tuple[ConvShape | None, int], Choice]:
    return {(one.shape, one.images): one for one in choices}


def _choices_of(content: Any, about: Mapping[str, str]) -> list[Choice]:  # noqa: ANN401  (JSON)
    """Reads the choices from a file's content.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: the content is invalid.
    """
    if content["about"] != about:
        raise ValueError("it is for another device, version or network")
    return [_choice_of(one) for one in content["choices"]]


def _choice_of(found: dict[str, Any]) -> Choice:
    shape = found["shape"]
    choice = Choice(
        shape=None if shape is None else ConvShape(**shape),
        times=int(found["times"]),
        images=int(found["images"]),
        candidates=tuple(_candidate_of(one) for one in found["candidates"]),
    )
    if choice.chosen is None:
        raise ValueError(f"it has no way to compute {choice.subject}")
    return choice


def _candidate_of(found: dict[str, Any]) -> Candidate:
    candidate = Candidate(**found)
    for figure in (candidate.seconds, candidate.error):
        if figure is not None and not 0 <= float(figure) < float("inf"):
            raise ValueError(f"{figure} is not a measurement")
    return candidate
