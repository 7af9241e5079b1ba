"""Formats durations for people, on the command line and on pages."""

from __future__ import annotations


def span(seconds: float) -> str:
    """Rounded: `42 s`, `7 min`, `3.5 h`, `12 days`."""
    if seconds < 100:  # noqa: PLR2004  (until minutes tell enough)
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 100 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.0f} days"
