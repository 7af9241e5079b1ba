"""A text as a cell of a table that people open in a spreadsheet, or look at in a terminal.

`producer.jobs.export.table` writes CSV with it. URIs, ids and what servers answered are strangers'
texts: a cell that begins with `=` is a formula, which runs where the table is opened (OWASP, "CSV
Injection"), and a control character steers a terminal.
"""

from __future__ import annotations

import re
from typing import Final

# OWASP's list of how a formula begins; the full-width signs count in some languages. Blanks before
# it are dropped by some spreadsheets.
_SIGNS: Final = r"=+\-@\uff1d\uff0b\uff0d\uff20"
# Where `;` separates the cells, as in half of Europe, a spreadsheet cuts ours there as well.
_FORMULA: Final = re.compile(rf"(?:^|(?<=;))(?=[\t\r\n]|[\s\ufeff]*[{_SIGNS}])")
# Controls, ends of lines, marks that turn the direction of text, halves of a surrogate pair.
_CONTROLS: Final = (
    r"\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
)
_CONTROL: Final = re.compile(f"[{_CONTROLS}]")
# Most texts have none of all that, and one look says so.
_SUSPECT: Final = re.compile(rf"^[\s\ufeff{_SIGNS}]|[;{_CONTROLS}]")


def cell(text: str) -> str:
    r"""The text with an apostrophe before each begin of a formula, on one line: controls are
    written as `\n` or `\x1b`.
    """
    if _SUSPECT.search(text) is None:
        return text
    return _CONTROL.sub(_escaped, _FORMULA.sub("'", text))


def _escaped(control: re.Match[str]) -> str:
    return control[0].encode("unicode_escape").decode()
