"""Makes text safe for a cell that people open in a spreadsheet or read in a terminal.

`producer.jobs.export.table` writes CSV with it. URIs, ids and servers' answers come from strangers.
A spreadsheet runs a cell that begins with `=` as a formula (OWASP, "CSV Injection"), and control
characters can change what a terminal shows.
"""

from __future__ import annotations

import re
from typing import Final

# The signs that begin a formula, by OWASP's list. Full-width signs count in some languages. Some
# spreadsheets drop blanks before them.
_SIGNS: Final = r"=+\-@\uff1d\uff0b\uff0d\uff20"
# Where `;` separates cells, as in half of Europe, a spreadsheet also splits our cells at `;`.
_FORMULA: Final = re.compile(rf"(?:^|(?<=;))(?=[\t\r\n]|[\s\ufeff]*[{_SIGNS}])")
# Control characters, line ends, marks that change the direction of text, unpaired surrogates.
_CONTROLS: Final = (
    r"\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
)
_CONTROL: Final = re.compile(f"[{_CONTROLS}]")
# A quick test: most texts contain nothing of this kind.
_SUSPECT: Final = re.compile(rf"^[\s\ufeff{_SIGNS}]|[;{_CONTROLS}]")


def cell(text: str) -> str:
    r"""The text on one line, with an apostrophe before each start of a formula. Control characters
    are written as `\n` or `\x1b`.
    """
    if _SUSPECT.search(text) is None:
        return text
    return _CONTROL.sub(_escaped, _FORMULA.sub("'", text))


def _escaped(control: re.Match[str]) -> str:
    return control[0].encode("unicode_escape").decode()
