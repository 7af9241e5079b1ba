"""Errors of readers that refuse a picture. `decode` turns them into error codes."""

from __future__ import annotations


class Unsupported(Exception):
    """A picture of an unsupported kind. The message says which."""


class Damaged(Exception):
    """A header that contradicts itself or costs too much to read. The message says where."""
