"""Which URIs are taken: the same question at submit, with the line number, and in the worker.

Whether an *address* may be fetched is asked once its name is resolved, by the worker alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from contract.error_codes import Failure

SCHEMES = ("http", "https", "file")
MAX_URI_CHARS = 8192
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
# Surrogates are bytes that were no UTF-8; no database stores them as text.
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\ud800-\udfff]")


def refusal(uri: str, file_roots: Sequence[Path]) -> Failure | None:
    """Why this URI is not taken, or None if it is. Touches neither network nor disk but for
    resolving the links of a file's path.
    """
    if len(uri) > MAX_URI_CHARS:
        return Failure("bad_uri", f"{len(uri)} characters; at most {MAX_URI_CHARS} are taken")
    match = _SCHEME.match(uri)
    if match is None:
        return Failure("blocked_scheme", "no scheme; write http://…, https://… or file:///…")
    if match[1].lower() not in SCHEMES:
        return Failure("blocked_scheme", f"{match[1]}: is not one of {', '.join(SCHEMES)}")
    if _FORBIDDEN.search(uri):
        return Failure(
            "bad_uri", "a blank, a control character or no UTF-8; write it as %20 or the like"
        )
    if match[1].lower() == "file":
        return _refusal_of_file(uri, file_roots)
    return _refusal_of_web(uri)


def _refusal_of_web(uri: str) -> Failure | None:
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError as error:
        return Failure("bad_uri", str(error))
    if not parts.hostname:
        return Failure("bad_uri", "no host")
    if port == 0:
        return Failure("bad_uri", "port 0")
    if parts.username is not None or parts.password is not None:
        return Failure("bad_uri", "a user name or password; it would be stored with the result")
    return None


def _refusal_of_file(uri: str, file_roots: Sequence[Path]) -> Failure | None:
    try:
        path = path_of(uri)
    except ValueError as error:
        return Failure("bad_uri", str(error))
    if not any(path.is_relative_to(root.resolve()) for root in file_roots):
        return Failure("blocked_path", "under no folder of RESNEXT_FILE_ROOTS")
    return None


def path_of(uri: str) -> Path:
    """The path that a file URI names, links and `..` resolved.

    Raises:
        ValueError: it names another host, no absolute path, or a link to itself.
    """
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost"):
        raise ValueError(f"a file URI of another host: {parts.netloc}")
    path = os.fsdecode(unquote_to_bytes(parts.path))
    if not path.startswith("/") or "\x00" in path or parts.query or parts.fragment:
        raise ValueError("a file URI is file:///absolute/path, with ? and # as %3F and %23")
    try:
        return Path(path).resolve()
    except RuntimeError as error:  # Python 3.11 and 3.12
        raise ValueError("a symbolic link that leads back to itself") from error
