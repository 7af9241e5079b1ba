"""Texts from others (names, owners, URIs, servers' answers), made safe for Rich."""

from __future__ import annotations

from rich.text import Text

from contract.log import in_one_line


def words(text: str, style: str = "") -> Text:
    """The text on one line. Characters that move the cursor or change the direction of text are
    escaped, and brackets are not markup.
    """
    return Text(in_one_line(text), style)
