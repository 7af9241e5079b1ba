"""What a job may be given beside its images: the limits of names, tags, times and shares."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from contract.errors import UsageError
from producer.submit.sources.entry import shorten

MAX_PRIORITY: Final = 1_000
MAX_EXPIRES_S: Final = 3650 * 86_400.0
MAX_TITLE_CHARS: Final = 200
MOST_TAGS: Final = 32
_TAG_KEY: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def check_title(what: str, title: str | None) -> None:
    """
    Raises:
        UsageError: it is empty, too long or not printable.
    """
    if title is not None and not (title.isprintable() and 0 < len(title) <= MAX_TITLE_CHARS):
        raise UsageError(
            f"{what} is {shorten(title)!r}; it is of 1 to {MAX_TITLE_CHARS} printable characters."
        )


def check_priority(priority: int) -> None:
    """
    Raises:
        UsageError: it is beyond the limits.
    """
    if abs(priority) > MAX_PRIORITY:
        raise UsageError(f"priority is {priority}; it is from -{MAX_PRIORITY} to {MAX_PRIORITY}.")


def check_expires(expires_s: float | None) -> None:
    """
    Raises:
        UsageError: it is beyond the limits.
    """
    if expires_s is not None and not 0 < expires_s <= MAX_EXPIRES_S:
        raise UsageError(
            f"expires is after {expires_s} seconds; it is after more than none, and "
            f"after {MAX_EXPIRES_S / 86_400:.0f} days at most."
        )


def check_tags(tags: Mapping[str, str]) -> None:
    """
    Raises:
        UsageError: there are too many, or one cannot be.
    """
    if len(tags) > MOST_TAGS:
        raise UsageError(f"A job has {len(tags)} tags; it has {MOST_TAGS} at most.")
    for key, value in tags.items():
        if _TAG_KEY.fullmatch(key) is None:
            raise UsageError(
                f"A tag has the key {shorten(key)!r}; it is of 1 to 64 letters, digits, '_', '.' "
                "and '-'."
            )
        check_title(f"the tag {key}", value)


def read_tags(texts: list[str]) -> dict[str, str]:
    """Tags as they are written on a command line and in a query: `key=value`.

    Raises:
        UsageError: one has no value, or stands twice.
    """
    tags: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"A tag is {shorten(text)!r}; write key=value.")
        if key in tags:
            raise UsageError(f"The tag {shorten(key)!r} is given twice.")
        tags[key] = value
    check_tags(tags)
    return tags


def read_share(text: str) -> float:
    """A share as it is written on a command line: `20%` or `0.2`.

    Raises:
        UsageError: it is none.
    """
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise UsageError(f"A share is {shorten(text)!r}; write 20% or 0.2.") from None
    check_share(number)
    return number


def check_share(share: float | None) -> None:
    """
    Raises:
        UsageError: it is no share of the images.
    """
    if share is not None and not 0 < share <= 1:
        raise UsageError(
            f"stop at failures is {share:g}; it is a share of the images, above 0% and up to 100%."
        )
