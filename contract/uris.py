"""Which URIs are accepted. Submit and worker ask the same question; submit adds the line number.

Whether an *address* may be fetched is a question for the worker, once it has resolved the name.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

from contract.failure import Failure
from contract.objects import EXTRAS, is_object, refusal_of_object

SCHEMES = ("http", "https", "file")
DEFAULT_PORTS = {"http": 80, "https": 443}
MAX_URI_CHARS = 8192
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
# Surrogates stand for bytes that were not UTF-8; no database stores them as text.
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\ud800-\udfff]")
# Nearly every URI of a crawl looks like this: a name instead of a number, no port, ASCII without a
# backslash, far below the maximum length. A closer look at each URI would take most of the time of
# a large submit. The possessive `++` prevents backtracking: no other split of a URI would match.
PLAIN = r"https?://(?:[a-z0-9-]{1,63}+\.){1,8}+[a-z]{2,63}+(?:/[!-\[\]-~]{0,7000}+)?+"
_PLAIN = re.compile(PLAIN)
# The worker encodes letters beyond ASCII.
_NO_HOST_NAME = re.compile(r"[^A-Za-z0-9_.\x80-\U0010ffff-]")
OUTSIDE_ROOTS: Final = "not under any of RESNEXT_FILE_ROOTS"
# If a link is replaced while a path is resolved, the next try finds the new link.
_RESOLVE_TRIES = 3


def refusal(
    uri: str, file_roots: Sequence[Path], object_stores: Collection[str] = ()
) -> Failure | None:
    """Why this URI is refused; None if it is accepted. Uses neither network nor disk, except to
    resolve the links in a file's path.
    """
    if _PLAIN.fullmatch(uri):
        return None
    if is_file(uri):
        found = find_file(uri, file_roots)
        return found if isinstance(found, Failure) else None
    refused = _refusal_of_text(uri)
    if refused is None and is_object(uri):
        return refusal_of_object(uri, object_stores)
    return refused or _refusal_of_web(uri)


def has_scheme(uri: str) -> bool:
    return _SCHEME.match(uri) is not None


def _refusal_of_text(uri: str) -> Failure | None:
    if len(uri) > MAX_URI_CHARS:
        return Failure("bad_uri", f"{len(uri)} characters; at most {MAX_URI_CHARS} are allowed")
    match = _SCHEME.match(uri)
    if match is None:
        return Failure("blocked_scheme", "no scheme; write http://…, https://… or file:///…")
    if match[1].lower() not in (*SCHEMES, *EXTRAS):
        return Failure("blocked_scheme", f"{match[1]}: is not one of {', '.join(SCHEMES)}")
    if _FORBIDDEN.search(uri):
        return Failure(
            "bad_uri", "a space, a control character or not UTF-8; escape it, such as %20"
        )
    return None


def _refusal_of_web(uri: str) -> Failure | None:
    # Python's own message could repeat a password from the URI.
    try:
        parts = urlsplit(uri)
    except ValueError:
        return Failure("bad_uri", "a bad [ or ] (IPv6), or a Unicode lookalike of / ? # @ or :")
    try:
        port = parts.port
    except ValueError:
        return Failure("bad_uri", "the port is not a number up to 65535")
    if not parts.hostname:
        return Failure("bad_uri", "no host")
    if port == 0:
        return Failure("bad_uri", "port 0")
    if parts.username is not None or parts.password is not None:
        return Failure("bad_uri", "a user name or password; it would be stored with the result")
    return _refusal_of_host(parts.netloc, parts.hostname)


def _refusal_of_host(netloc: str, host: str) -> Failure | None:
    """Refuses hosts that programs read differently: one host could be checked, another fetched."""
    if "\\" in netloc:
        return Failure("bad_uri", "a backslash in the host; write / after the host")
    if netloc.startswith("["):
        return None if _is_ipv6(host) else Failure("bad_uri", "no IPv6 address in the brackets")
    if "%" in netloc:
        return Failure("bad_uri", "a % in the host; write the host without escapes")
    odd = _NO_HOST_NAME.search(host)
    return odd and Failure("bad_uri", f"{odd[0]!r} in the host; host names cannot have it")


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host.replace("%25", "%", 1))  # before a zone
    except ValueError:
        return False
    return True


def refusal_of_port(uri: str, ports: Collection[int]) -> Failure | None:
    """The same for the port of a URI that `refusal` accepts. Empty `ports` permits every port."""
    if not ports or is_file(uri):
        return None
    parts = urlsplit(uri)
    port = parts.port or DEFAULT_PORTS.get(parts.scheme)
    if port is None or port in ports:
        return None
    return Failure("blocked_port", f"{port} is not in RESNEXT_FETCH_PORTS")


def is_file(uri: str) -> bool:
    return uri[: len("file:")].lower() == "file:"


def find_file(uri: str, file_roots: Sequence[Path]) -> Path | Failure:
    """The path that a file URI names, with links resolved, or why the URI is refused.

    Open the returned path. If you resolve the URI again, it may lead elsewhere.
    """
    refused = _refusal_of_text(uri)
    if refused is not None:
        return refused
    try:
        path = path_of(uri)
        permitted = is_under(path, file_roots)
    except ValueError as error:
        return Failure("bad_uri", str(error))
    except OSError:
        return Failure("timeout", "a link in the path was replaced each time it was followed")
    return path if permitted else Failure("blocked_path", OUTSIDE_ROOTS)


def is_under(path: Path, roots: Sequence[Path]) -> bool:
    """Whether a path with resolved links is inside one of these folders.

    Raises:
        ValueError, OSError: a root is a link that cannot be followed; see `path_of`.
    """
    return any(path.is_relative_to(_resolve(root)) for root in roots)


def path_of(uri: str) -> Path:
    """The path that a file URI names, with links and `..` resolved.

    Raises:
        ValueError: the URI names another host, no absolute path, or a link to itself.
        OSError: a link in the path was replaced each time it was followed.
    """
    try:
        parts = urlsplit(uri)
    except ValueError:  # the error's text could repeat the host, and a password with it
        raise ValueError("a file URI with another host") from None
    if parts.netloc not in ("", "localhost"):
        raise ValueError("a file URI with another host")
    path = os.fsdecode(unquote_to_bytes(parts.path))
    if not path.startswith("/") or "\x00" in path or parts.query or parts.fragment:
        raise ValueError("a file URI must be file:///absolute/path, with ? and # as %3F and %23")
    return _resolve(Path(path))


def _resolve(path: Path) -> Path:
    """
    Raises:
        ValueError: a link leads back to itself.
        OSError: a link in the path was replaced each time it was followed.
    """
    for tries_left in reversed(range(_RESOLVE_TRIES)):
        try:
            return path.resolve()
        except RuntimeError as error:  # Python 3.11 and 3.12
            raise ValueError("a symbolic link that leads back to itself") from error
        except OSError:
            if not tries_left:
                raise
    raise AssertionError("the last try returns or raises")
