"""Which addresses may be fetched: public ones, and those that `RESNEXT_FETCH_ALLOW` opens.

`worker.fetch` asks for every connection, after the name is resolved and with the very address
that it then connects to. (The package requests-hardened filters addresses as well, and lets
`fec0::1`, `::127.0.0.1` and 168.63.129.16 through; what it would save is this file.)
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

# What Python's `is_global` lets through although it leads inside:
_INSIDE: Final[tuple[IPNetwork, ...]] = (
    ipaddress.ip_network("168.63.129.16/32"),  # Azure's host, which hands out credentials
    ipaddress.ip_network("192.88.99.0/24"),  # 6to4 relays, RFC 7526
    ipaddress.ip_network("::/96"),  # IPv4-compatible, RFC 4291, deprecated
    ipaddress.ip_network("fec0::/10"),  # site-local, RFC 3879, deprecated
)
_NAT64: Final = (
    ipaddress.IPv6Network("64:ff9b::/96"),  # RFC 6052
    ipaddress.IPv6Network("64:ff9b:1::/48"),  # RFC 8215
)
_LOW_32_BITS: Final = 0xFFFF_FFFF


def is_public(address: IPAddress) -> bool:
    """Whether anybody on the Internet could reach it, whatever it embeds included."""
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    if any(address in network for network in _INSIDE if network.version == address.version):
        return False
    return all(is_public(inner) for inner in _embedded(address))


def _embedded(address: IPAddress) -> Sequence[IPAddress]:
    """IPv4 addresses that a translator on the way would take out of an IPv6 one."""
    if isinstance(address, ipaddress.IPv4Address):
        return ()
    if any(address in network for network in _NAT64):
        return (ipaddress.IPv4Address(int(address) & _LOW_32_BITS),)
    inner = (address.ipv4_mapped, address.sixtofour, *(address.teredo or ()))
    return tuple(found for found in inner if found is not None)


@dataclass(frozen=True)
class FetchAllow:
    """What `RESNEXT_FETCH_ALLOW` opens: hosts, host:port pairs, addresses and networks."""

    names: frozenset[str] = frozenset()
    networks: tuple[IPNetwork, ...] = field(default=())

    @classmethod
    def parse(cls, entries: Iterable[str]) -> Self:
        names, networks = set(), []
        for entry in entries:
            try:
                networks.append(ipaddress.ip_network(entry.strip("[]")))
            except ValueError:
                names.add(entry.lower())
        return cls(frozenset(names), tuple(networks))

    def permits(self, host: str, port: int, address: IPAddress) -> bool:
        """Whether a connection for this host may go to this address."""
        return is_public(address) or self._opens(host.lower().rstrip("."), port, address)

    def _opens(self, host: str, port: int, address: IPAddress) -> bool:
        named = {host, f"{host}:{port}", f"{address}:{port}", f"[{address}]:{port}"}
        if not named.isdisjoint(self.names):
            return True
        return any(address in net for net in self.networks if net.version == address.version)


def parse_address(text: str) -> IPAddress:
    """An address as `getaddrinfo` gives it, zone included."""
    return ipaddress.ip_address(text.partition("%")[0])
