"""Reads an entry of `RESNEXT_FETCH_ALLOW`, which opens addresses that are not public.

Three callers read entries here: settings refuse an entry that cannot match anything, loaders check
every connection, and `doctor` shows what is open. Loaders import this, so it does not load
pydantic.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, Self

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

FORMS: Final = (
    "a host, *.suffix for all hosts below it (both also with :port), an address, [address]:port, "
    "or a network such as 10.0.0.0/8"
)
_LABEL: Final = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
# If a name ends in a number, browsers read the whole name as an address (WHATWG URL, "ends in a
# number").
_NUMBER: Final = re.compile("[0-9]+|0x[0-9a-f]*")
_LARGEST_PORT: Final = 65535


@dataclass(frozen=True)
class Opening:
    """What one entry opens: a host, all hosts below a suffix, or addresses."""

    name: str = ""
    """A host or, with `below`, a suffix without its first dot; empty for addresses."""
    below: bool = False
    network: IPNetwork | None = None
    port: int | None = None
    """None: every port."""

    @classmethod
    def read(cls, entry: str) -> Self:
        """
        Raises:
            ValueError: the entry cannot match anything; the message says what to write.
        """
        text = entry.strip().lower()
        if text in {"*", "*:*"}:
            raise ValueError(
                "no host has that name; to open every address, write 0.0.0.0/0,::/0, but then "
                "everyone who may submit can read from all of your network"
            )
        if "://" in text:
            raise ValueError(f"it must not be a URL; write {FORMS}")
        if "/" in text:
            return cls(network=ipaddress.ip_network(text))
        if (address := _address(text.removeprefix("[").removesuffix("]"))) is not None:
            return cls(network=ipaddress.ip_network(address))
        host, port = _split_port(text)
        if (address := _address(host.removeprefix("[").removesuffix("]"))) is not None:
            return cls(network=ipaddress.ip_network(address), port=port)
        below = host.startswith(("*.", "."))
        name = (host.removeprefix("*").removeprefix(".") if below else host).removesuffix(".")
        _check_name(name)
        return cls(name=name, below=below, port=port)

    def is_of(self, host: str) -> bool:
        """Whether the entry opens this host at any address; `host` is in lower case."""
        if self.below:
            return host.endswith(f".{self.name}")
        return self.network is None and host == self.name

    def opens(self, host: str, port: int, address: IPAddress) -> bool:
        if self.port not in {None, port}:
            return False
        return self.is_of(host) if self.network is None else address in self.network


def _address(text: str) -> IPAddress | None:
    """The address; None if the text is not one, or has a zone, which no comparison would use."""
    try:
        return None if "%" in text else ipaddress.ip_address(text)
    except ValueError:
        return None


def _split_port(text: str) -> tuple[str, int | None]:
    host, colon, port = text.rpartition(":")
    if not colon:
        return text, None
    if not (port.isascii() and port.isdecimal() and 1 <= int(port) <= _LARGEST_PORT):
        raise ValueError(f"its port is {port!r}, not 1 to {_LARGEST_PORT}; write {FORMS}")
    return host, int(port)


def _check_name(name: str) -> None:
    if not name.isascii():
        raise ValueError(f"a host must be in ASCII; write {_in_ascii(name)}, as browsers send it")
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"no host has that name; write {FORMS}")
    if _NUMBER.fullmatch(name.rpartition(".")[2]):
        raise ValueError("the address is incomplete; write all four numbers, such as 127.0.0.1")


def _in_ascii(name: str) -> str:
    try:
        return name.encode("idna").decode()
    except UnicodeError:
        return "its form that begins with xn--"
