"""The first module of the program `resnextq`. It runs before anything else is loaded.

Ctrl-C during imports ends the program without a traceback. A standard stream that the caller has
closed is replaced, so that no file opened later gets its number. A terminal with the C locale gets
ASCII.
"""

# ruff: noqa: PLC0415  (everything else is imported below)

from __future__ import annotations

import codecs
import os
import signal
import sys
from io import TextIOWrapper
from typing import Final

READABLE: Final = "resnextq-readable"
"""Error handler for characters that a stream's encoding lacks."""
IN_ASCII: Final = {"·": "-", "…": "...", "→": "->"}


def main() -> None:
    """Runs the command that the user typed."""
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not in the background
    if heeded:
        signal.signal(signal.SIGINT, _leave)
    _complete_streams()
    from producer.cli.completion import COMPLETE
    from producer.cli.main import main as run

    if heeded and COMPLETE not in os.environ:  # a shell that waits for Tab wants no traceback
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        try:
            run()
        finally:
            sys.stdout.flush()
    except OSError as error:  # from printing help or the version, which no command does
        from producer.cli.errors import explain

        status = explain(error)
        if status is None:
            raise
        sys.exit(status)


def _leave(number: int, _frame: object) -> None:
    os._exit(128 + number)  # nothing has begun yet


def _complete_streams() -> None:
    """Replaces closed standard streams. A closed standard output refuses what is written, as the
    caller wanted.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            flags = os.O_WRONLY if name == "stderr" else os.O_RDONLY
            os.open(os.devnull, flags)  # gets the lowest free number, which is this one
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115
    codecs.register_error(READABLE, _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        _make_writable(stream)  # type: ignore[arg-type]


def _make_writable(stream: TextIOWrapper) -> None:
    """Makes the stream accept every letter. Its encoding may lack ours, or those of a URI.

    In the C locale Python writes UTF-8. A terminal cannot show that if the user set `LANG=C`, so it
    gets ASCII. A pipe or a file still gets UTF-8, because it may be data.
    """
    if stream.isatty() and _is_c_locale():
        stream.reconfigure(encoding="ascii")
    stream.reconfigure(errors=READABLE)


def _is_c_locale() -> bool:
    """Whether the user chose the C locale. Without any variable, as in most containers: no.

    Python itself sets LC_CTYPE=C.UTF-8 in the C locale (PEP 538), so LC_CTYPE is not read.
    """
    return (os.environ.get("LC_ALL") or os.environ.get("LANG")) in {"C", "POSIX"}


def _in_ascii(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replaces our own characters with similar ones, and all others with their number."""
    if isinstance(error, UnicodeEncodeError) and error.object[error.start] in IN_ASCII:
        return IN_ASCII[error.object[error.start]], error.start + 1
    return codecs.backslashreplace_errors(error)
