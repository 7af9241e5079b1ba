"""Checks a job's options against their limits: names, tags, times and shares."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from contract.errors import UsageError
from producer.submit.sources.entry import quoted

MAX_PRIORITY: Final = 1_000
MAX_EXPIRES_S: Final = 3650 * 86_400.0
MAX_TITLE_CHARS: Final = 200
MAX_MODEL_CHARS: Final = 1_000
MOST_TAGS: Final = 32
_TAG_KEY: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def check_title(what: str, title: str | None) -> None:
    """Checks a name, key or tag value.

    Raises:
        UsageError: the text is empty, too long or not printable.
    """
    if title is not None and not (title.isprintable() and 0 < len(title) <= MAX_TITLE_CHARS):
        raise UsageError(
            f"{what} must have 1 to {MAX_TITLE_CHARS} printable characters, got {quoted(title)}."
        )


def check_model(what: str, name: str) -> None:
    """Checks the name or path of a model or its weights.

    Raises:
        UsageError: the text is empty, too long or not printable.
    """
    if not (name.isprintable() and 0 < len(name) <= MAX_MODEL_CHARS):
        raise UsageError(
            f"{what} must have 1 to {MAX_MODEL_CHARS:,} printable characters, got {quoted(name)}."
        )


def check_priority(priority: int) -> None:
    """Checks a priority.

    Raises:
        UsageError: the priority is out of range.
    """
    if abs(priority) > MAX_PRIORITY:
        raise UsageError(
            f"priority must be from -{MAX_PRIORITY} to {MAX_PRIORITY}, got {priority}."
        )


def check_expires(expires_s: float | None) -> None:
    """Checks a time limit.

    Raises:
        UsageError: the limit is out of range.
    """
    if expires_s is not None and not 0 < expires_s <= MAX_EXPIRES_S:
        raise UsageError(
            f"expires must be above 0 seconds and at most {MAX_EXPIRES_S / 86_400:.0f} days, got "
            f"{expires_s} seconds."
        )


def check_tags(tags: Mapping[str, str]) -> None:
    """Checks a job's tags.

    Raises:
        UsageError: there are too many tags, or one is invalid.
    """
    if len(tags) > MOST_TAGS:
        raise UsageError(f"A job can have at most {MOST_TAGS} tags, got {len(tags)}.")
    for key, value in tags.items():
        check_tag_key(key)
        check_title(f"tag {key}", value)


def check_tag_key(key: str) -> None:
    """Checks the key of a tag.

    Raises:
        UsageError: the key is invalid.
    """
    if _TAG_KEY.fullmatch(key) is None:
        raise UsageError(
            f"A tag's key must have 1 to 64 letters, digits, '_', '.' or '-', got {quoted(key)}."
        )


def read_tags(texts: list[str]) -> dict[str, str]:
    """Tags as written on the command line and in a query: `key=value`.

    Raises:
        UsageError: a tag has no value, or is given twice.
    """
    tags: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"The tag {quoted(text)} has no value. Write key=value.")
        if key in tags:
            raise UsageError(f"The tag {quoted(key)} is given twice.")
        tags[key] = value
    check_tags(tags)
    return tags


def read_share(text: str) -> float:
    """A share as written on the command line: `20%` or `0.2`.

    Raises:
        UsageError: the text is not a share.
    """
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise UsageError(f"{quoted(text)} is not a share. Write 20% or 0.2.") from None
    check_share(number)
    return number


def check_share(share: float | None) -> None:
    """Checks a share.

    Raises:
        UsageError: the share is out of range.
    """
    if share is not None and not 0 < share <= 1:
        raise UsageError(
            "stop at failures must be a share of the images, above 0% and up to 100%, got "
            f"{share:g}."
        )
