"""Images whose right answers are known: each has one colour, and the colour is its class.

`double` reads the class from the pixels, and `verdict` asks this module for the right one. Some
images do harm. One kind harms the loader that decodes them: `sabotage` looks for a word in the
file. The other kind harms the worker that classifies them.
"""

from __future__ import annotations

from io import BytesIO
from itertools import count
from pathlib import Path
from random import Random
from typing import Final

from PIL import Image
from PIL.PngImagePlugin import PngInfo

SIDE: Final = 8
PLAIN: Final = 2048
DEADLY: Final = 2**24 - 1
"""The class that kills the worker."""
# The error codes of harmful images; see docs/chunk-life.md.
ENDS_AS: Final = {"crash": "crashed", "memory": "timeout", "kill": "crashed"}
MARK: Final = "harm"


class Pictures:
    """Files in one folder: `17.png` has class 17, `kill-3.png` kills its worker."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names = count()
        folder.mkdir()
        for number in range(PLAIN):
            self._write(f"{number}.png", number)

    def plain(self, images: int, random: Random) -> list[str]:
        return [self._uri(f"{random.randrange(PLAIN)}.png") for _ in range(images)]

    def harmful(self, kind: str, images: int) -> list[str]:
        """`kind` is a key of `ENDS_AS`."""
        names = [f"{kind}-{next(self._names)}.png" for _ in range(images)]
        for name in names:
            self._write(name, DEADLY if kind == "kill" else 0, kind)
        return [self._uri(name) for name in names]

    def absent(self, images: int, random: Random) -> list[str]:
        """Returns URIs of files that do not exist until `bring` writes them."""
        numbers = [random.randrange(PLAIN) for _ in range(images)]
        return [self._uri(f"{number}.absent-{next(self._names)}.png") for number in numbers]

    def bring(self, uris: list[str]) -> None:
        for uri in uris:
            name = uri.rpartition("/")[2]
            self._write(name, int(name.partition(".")[0]))

    def _uri(self, name: str) -> str:
        return (self._folder / name).as_uri()

    def _write(self, name: str, number: int, harm: str = "") -> None:
        words = PngInfo()
        words.add_text(MARK, harm)
        content = BytesIO()
        colour = (number >> 16, number >> 8 & 255, number & 255)
        Image.new("RGB", (SIDE, SIDE), colour).save(content, "PNG", pnginfo=words)
        (self._folder / name).write_bytes(content.getvalue())


def answer_of(uri: str) -> int | str:
    """Returns the class or the error code that an image must end with."""
    name = uri.rpartition("/")[2]
    return ENDS_AS.get(name.partition("-")[0]) or int(name.partition(".")[0])
