"""Parses web URIs for connections, with one form for each host.

`worker.loader.fetch.fetcher` uses it to connect, and `worker.pool.hosts` to count a host's images,
so a host cannot exceed its share under another form of its name.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final
from urllib.parse import quote, urlsplit

from contract.uris import DEFAULT_PORTS

_NAME: Final = re.compile(r"[a-z0-9_.-]+")
# Characters that RFC 3986 permits in a path or query stay unchanged, and so do escapes.
_TO_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})|[^!$%&'()*+,./0-9:;=?@A-Z_a-z~-]")


@dataclass(frozen=True)
class WebAddress:
    scheme: str
    host: str
    """In lower-case ASCII. An address is in its usual form, IPv6 without brackets."""
    port: int
    target: str
    """The path and query as they are sent."""
    is_name: bool
    """Whether the host is a name, which must be looked up."""

    @property
    def authority(self) -> str:
        """The host in the form for URLs."""
        return f"[{self.host.replace('%', '%25')}]" if ":" in self.host else self.host

    @property
    def uri(self) -> str:
        port = "" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{self.authority}{port}{self.target}"


def parse_web(uri: str) -> WebAddress:
    """Parses a web URI.

    Raises:
        ValueError: the URI has no valid host.
    """
    parts = urlsplit(uri)
    host, is_name = spell_host(parts.hostname or "")
    if is_name and "[" in parts.netloc:
        raise ValueError("not an IPv6 address")
    target = _without_dots(parts.path) if "/." in parts.path else parts.path or "/"
    if parts.query:
        target += f"?{parts.query}"
    port = parts.port or DEFAULT_PORTS.get(parts.scheme, 0)
    return WebAddress(parts.scheme, host, port, escape(target), is_name)


def escape(target: str) -> str:
    """Escapes characters that a path or a query must not contain. Keeps existing escapes."""
    return _TO_ESCAPE.sub(lambda found: quote(found[0], safe=""), target)


def _without_dots(path: str) -> str:
    """Removes `.`, and `..` with the segment before it (RFC 3986, 5.2.4)."""
    kept: list[str] = []
    parts = path.split("/")
    for part in parts:
        if part == ".." and len(kept) > 1:
            kept.pop()
        elif part not in {".", ".."}:
            kept.append(part)
    if parts[-1] in {".", ".."}:
        kept.append("")
    return "/".join(kept)


def spell_host(host: str) -> tuple[str, bool]:
    """Returns the usual form of a host in lower case, and whether it is a name."""
    if ":" in host:
        return str(IPv6Address(host.replace("%25", "%", 1))), False
    if not host.isascii():
        import idna  # noqa: PLC0415  (few need its tables)

        host = idna.encode(host, strict=True, std3_rules=True).decode()
    if not _NAME.fullmatch(host):
        raise ValueError("not a host name")
    try:
        return socket.inet_ntoa(socket.inet_aton(host)), False  # also for forms such as 0x7f.1
    except OSError:
        return host, True
