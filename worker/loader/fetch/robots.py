"""`X-Robots-Tag`: whether a server asks programs like this one not to use its picture.

`worker.loader.fetch.head` calls this with the header's lines before it reads a body. The directives
are those that img2dataset follows, and `none`, which means `noindex, nofollow`. A directive may be
for one program only: `resnext-queue: noai` is for us, `otherbot: noindex` is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

# Our name in this header and in the User-Agent.
OUR_NAME: Final = "resnext-queue"
FORBIDDING: Final = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
# Names as in RFC 9309, with digits and dots as well. It must not match the rest of a date.
_NAME: Final = re.compile(r"[a-z][a-z0-9._-]*")
# Directives with a value after a colon. Anything else before a colon is a program's name.
_VALUED: Final = frozenset(
    {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"}
)


def forbidding(lines: Iterable[str]) -> str | None:
    """Returns the first directive that forbids us to use the picture, or None."""
    return next((word for line in lines for word in _for_us(line) if word in FORBIDDING), None)


def _for_us(line: str) -> Iterator[str]:
    """Yields directives for all programs and for ours. A name applies to all that follow it."""
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
