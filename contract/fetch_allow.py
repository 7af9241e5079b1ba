"""An entry of `RESNEXT_FETCH_ALLOW`: what it opens of the addresses that are not public.

Settings refuse an entry that can open nothing, loaders ask for every connection, and `doctor` says
what is open: all three read entries here. A loader imports it, so it loads no pydantic.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, Self

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

FORMS: Final = (
    "a host, *.suffix for all hosts below it, either with :port, an address, [address]:port, or a "
    "network as 10.0.0.0/8"
)
_LABEL: Final = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
# Where a name ends in one, a browser reads the whole as an address (WHATWG URL, "ends in a
# number").
_NUMBER: Final = re.compile("[0-9]+|0x[0-9a-f]*")
_LARGEST_PORT: Final = 65535


@dataclass(frozen=True)
class Opening:
    """What one entry opens: a host, all hosts below a suffix, or addresses."""

    name: str = ""
    """A host or, with `below`, a suffix without its first dot; of addresses empty."""
    below: bool = False
    network: IPNetwork | None = None
    port: int | None = None
    """None: every port."""

    @classmethod
    def read(cls, entry: str) -> Self:
        """
        Raises:
            ValueError: the entry can open nothing; says what to write.
        """
        text = entry.strip().lower()
        if text in {"*", "*:*"}:
            raise ValueError(
                "no host has that name; to open every address, write 0.0.0.0/0,::/0 and know that "
                "whoever submits can then read from all of your network"
            )
        if "://" in text:
            raise ValueError(f"it is no URL; write {FORMS}")
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
        """Whether it opens this host, whatever its address; the name in small letters."""
        if self.below:
            return host.endswith(f".{self.name}")
        return self.network is None and host == self.name

    def opens(self, host: str, port: int, address: IPAddress) -> bool:
        if self.port not in {None, port}:
            return False
        return self.is_of(host) if self.network is None else address in self.network


def _address(text: str) -> IPAddress | None:
    """None also for one with a zone, of which the numbers alone would be compared."""
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
        raise ValueError(
            f"a host goes over the network in ASCII; write {_in_ascii(name)}, as browsers send it"
        )
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"no host has that name; write {FORMS}")
    if _NUMBER.fullmatch(name.rpartition(".")[2]):
        raise ValueError("it is no whole address; write all four numbers, such as 127.0.0.1")


def _in_ascii(name: str) -> str:
    try:
        return name.encode("idna").decode()
    except UnicodeError:
        return "its name that begins with xn--"
