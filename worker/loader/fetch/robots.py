"""`X-Robots-Tag`: whether a server asks that its picture is not taken by programs such as this.

Called by `worker.loader.fetch.head` with the header's lines, before a body is read. The
directives are those that img2dataset heeds, with `none`, which stands for `noindex, nofollow`. A
directive may be for one program alone: `otherbot: noindex` is none of our business, `resnext-queue:
noai` is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

# What we call ourselves, here and in the User-Agent.
OUR_NAME: Final = "resnext-queue"
FORBIDDING: Final = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
# As RFC 9309 has them, with digits and dots; the rest of a date in a value's tail is none.
_NAME: Final = re.compile(r"[a-z][a-z0-9._-]*")
# Directives that have a value after a colon; what else stands before one is a program's name.
_VALUED: Final = frozenset(
    {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"}
)


def forbidding(lines: Iterable[str]) -> str | None:
    """The first directive that tells us to leave the picture alone; None if there is none."""
    return next((word for line in lines for word in _for_us(line) if word in FORBIDDING), None)


def _for_us(line: str) -> Iterator[str]:
    """Directives for every program, and for ours. A name holds for all that follow it."""
    name: str | None = None
    for part in line.lower().split(","):
        before, colon, after = part.partition(":")
        is_named = bool(colon) and _is_name(before.strip())
        if is_named:
            name = before.strip()
        if name in (None, OUR_NAME):
            yield (after if is_named else part).strip()


def _is_name(text: str) -> bool:
    return text not in _VALUED and _NAME.fullmatch(text) is not None
