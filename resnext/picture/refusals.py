"""What a reader raises of a picture that it does not take; `decode` makes a code of it."""

from __future__ import annotations


class Unsupported(Exception):
    """A picture of a kind that is not decoded; the words say which."""


class Damaged(Exception):
    """A header that contradicts itself or costs too much to read; the words say where."""
