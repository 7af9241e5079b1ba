"""Which URIs are taken: the same question at submit, with the line number, and in the worker.

Whether an *address* may be fetched is asked once its name is resolved, by the worker alone.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from contract.failure import Failure
from contract.objects import EXTRAS, is_object, refusal_of_object

SCHEMES = ("http", "https", "file")
DEFAULT_PORTS = {"http": 80, "https": 443}
MAX_URI_CHARS = 8192
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
# Surrogates are bytes that were no UTF-8; no database stores them as text.
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\ud800-\udfff]")
# As nearly every URI of a crawl is: a name and no number, no port, ASCII without a backslash, far
# from the greatest length. A closer look at each would cost a large submit most of its time.
# Nothing is given back once it has matched (++): no other division of a URI would match either.
PLAIN = r"https?://(?:[a-z0-9-]{1,63}+\.){1,8}+[a-z]{2,63}+(?:/[!-\[\]-~]{0,7000}+)?+"
_PLAIN = re.compile(PLAIN)
# Letters beyond ASCII are the worker's to encode.
_NO_HOST_NAME = re.compile(r"[^A-Za-z0-9_.\x80-\U0010ffff-]")
# If a link is replaced while a path is resolved, the next try finds the new one.
_RESOLVE_TRIES = 3


def refusal(
    uri: str, file_roots: Sequence[Path], object_stores: Collection[str] = ()
) -> Failure | None:
    """Why this URI is not taken, or None if it is. Touches neither network nor disk but for
    resolving the links of a file's path.
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


def _refusal_of_text(uri: str) -> Failure | None:
    if len(uri) > MAX_URI_CHARS:
        return Failure("bad_uri", f"{len(uri)} characters; at most {MAX_URI_CHARS} are taken")
    match = _SCHEME.match(uri)
    if match is None:
        return Failure("blocked_scheme", "no scheme; write http://…, https://… or file:///…")
    if match[1].lower() not in (*SCHEMES, *EXTRAS):
        return Failure("blocked_scheme", f"{match[1]}: is not one of {', '.join(SCHEMES)}")
    if _FORBIDDEN.search(uri):
        return Failure(
            "bad_uri", "a blank, a control character or no UTF-8; write it as %20 or the like"
        )
    return None


def _refusal_of_web(uri: str) -> Failure | None:
    # What Python says of them would repeat a password that stands beside.
    try:
        parts = urlsplit(uri)
    except ValueError:
        return Failure("bad_uri", "a bracket of an IPv6 address, or a / ? # @ : in disguise")
    try:
        port = parts.port
    except ValueError:
        return Failure("bad_uri", "the port is no number up to 65535")
    if not parts.hostname:
        return Failure("bad_uri", "no host")
    if port == 0:
        return Failure("bad_uri", "port 0")
    if parts.username is not None or parts.password is not None:
        return Failure("bad_uri", "a user name or password; it would be stored with the result")
    return _refusal_of_host(parts.netloc, parts.hostname)


def _refusal_of_host(netloc: str, host: str) -> Failure | None:
    """Programs disagree about what such hosts are, so one may be counted and another asked."""
    if "\\" in netloc:
        return Failure("bad_uri", "a backslash in the host; what comes after it begins with /")
    if netloc.startswith("["):
        return None if _is_ipv6(host) else Failure("bad_uri", "no IPv6 address in the brackets")
    if "%" in netloc:
        return Failure("bad_uri", "a % in the host; a host is written without escapes")
    odd = _NO_HOST_NAME.search(host)
    return odd and Failure("bad_uri", f"{odd[0]!r} in the host; no host name has that")


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host.replace("%25", "%", 1))  # of a zone
    except ValueError:
        return False
    return True


def refusal_of_port(uri: str, ports: Collection[int]) -> Failure | None:
    """The same for the port of a URI that `refusal` takes; no ports: each of them is permitted."""
    if not ports or is_file(uri):
        return None
    parts = urlsplit(uri)
    port = parts.port or DEFAULT_PORTS.get(parts.scheme)
    if port is None or port in ports:
        return None
    return Failure("blocked_port", f"{port} is none of RESNEXT_FETCH_PORTS")


def is_file(uri: str) -> bool:
    return uri[: len("file:")].lower() == "file:"


def find_file(uri: str, file_roots: Sequence[Path]) -> Path | Failure:
    """The path that a file URI names, links resolved, or why it is not taken.

    Open this very path: resolved anew, the URI may lead elsewhere.
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
        return Failure("timeout", "a link on its way was replaced each time that it was followed")
    return path if permitted else Failure("blocked_path", "under no folder of RESNEXT_FILE_ROOTS")


def is_under(path: Path, roots: Sequence[Path]) -> bool:
    """Whether a path whose links are resolved lies in one of these folders.

    Raises:
        ValueError, OSError: a root is a link that cannot be followed; see `path_of`.
    """
    return any(path.is_relative_to(_resolve(root)) for root in roots)


def path_of(uri: str) -> Path:
    """The path that a file URI names, links and `..` resolved.

    Raises:
        ValueError: it names another host, no absolute path, or a link to itself.
        OSError: a link on its way was replaced each time that it was followed.
    """
    try:
        parts = urlsplit(uri)
    except ValueError:  # its words would repeat the host, and a password beside it
        raise ValueError("a file URI of another host") from None
    if parts.netloc not in ("", "localhost"):
        raise ValueError("a file URI of another host")
    path = os.fsdecode(unquote_to_bytes(parts.path))
    if not path.startswith("/") or "\x00" in path or parts.query or parts.fragment:
        raise ValueError("a file URI is file:///absolute/path, with ? and # as %3F and %23")
    return _resolve(Path(path))


def _resolve(path: Path) -> Path:
    """
    Raises:
        ValueError: a link leads back to itself.
        OSError: a link on its way was replaced each time that it was followed.
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
