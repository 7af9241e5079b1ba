"""Texts that others wrote (names, owners, URIs, servers' answers), as Rich draws them."""

from __future__ import annotations

from rich.text import Text

from contract.log import in_one_line


def words(text: str, style: str = "") -> Text:
    """The text on one line. What could move the cursor or turn its direction is escaped, and
    brackets are no markup.
    """
    return Text(in_one_line(text), style)
