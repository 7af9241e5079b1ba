"""The parts of a web URI that is connected to, with one spelling for each host.

`worker.loader.fetch.fetcher` connects by it, and `worker.pool.hosts` counts the images of a host by
it, so no second spelling gets a host more than its share.
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
# What RFC 3986 permits in a path or query stays as it is, escapes included.
_TO_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})|[^!$%&'()*+,./0-9:;=?@A-Z_a-z~-]")


@dataclass(frozen=True)
class WebAddress:
    scheme: str
    host: str
    """In lower-case ASCII; an address in its usual spelling, IPv6 without brackets."""
    port: int
    target: str
    """Path and query, as they go out."""
    is_name: bool
    """It is to be looked up."""

    @property
    def authority(self) -> str:
        """The host as URLs have it."""
        return f"[{self.host.replace('%', '%25')}]" if ":" in self.host else self.host

    @property
    def uri(self) -> str:
        port = "" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{self.authority}{port}{self.target}"


def parse_web(uri: str) -> WebAddress:
    """
    Raises:
        ValueError: it has no host that can be connected to.
    """
    parts = urlsplit(uri)
    host, is_name = spell_host(parts.hostname or "")
    if is_name and "[" in parts.netloc:
        raise ValueError("no address of IPv6")
    target = _without_dots(parts.path) if "/." in parts.path else parts.path or "/"
    if parts.query:
        target += f"?{parts.query}"
    port = parts.port or DEFAULT_PORTS.get(parts.scheme, 0)
    return WebAddress(parts.scheme, host, port, escape(target), is_name)


def escape(target: str) -> str:
    """Escapes what may not stand in a path or a query; what is escaped stays as it is."""
    return _TO_ESCAPE.sub(lambda found: quote(found[0], safe=""), target)


def _without_dots(path: str) -> str:
    """RFC 3986, 5.2.4: `.` is left out, and `..` with what stands before it."""
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
    """The usual spelling of a host in lower case, and whether it is a name."""
    if ":" in host:
        return str(IPv6Address(host.replace("%25", "%", 1))), False
    if not host.isascii():
        import idna  # noqa: PLC0415  (few need its tables)

        host = idna.encode(host, strict=True, std3_rules=True).decode()
    if not _NAME.fullmatch(host):
        raise ValueError("no name of a host")
    try:
        return socket.inet_ntoa(socket.inet_aton(host)), False  # also of 0x7f.1 and the like
    except OSError:
        return host, True
