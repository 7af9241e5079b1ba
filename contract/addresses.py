"""Which addresses may be fetched: public ones, and those that `RESNEXT_FETCH_ALLOW` opens.

A loader asks before every connection, and the dispatcher before it sends a notification. Both ask
after they have resolved the name, with the address that they then connect to. docs/loaders.md
explains why no package is used for this.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from contract.fetch_allow import IPAddress, IPNetwork, Opening

# Addresses that lead inside although `is_global` of some Python version counts them as public:
_INSIDE: Final[tuple[IPNetwork, ...]] = (
    ipaddress.ip_network("168.63.129.16/32"),  # Azure's host, which gives out credentials
    ipaddress.ip_network("192.0.0.0/24"),  # RFC 6890; Oracle's cloud keeps its metadata there
    ipaddress.ip_network("192.88.99.0/24"),  # 6to4 relays, RFC 7526
    ipaddress.ip_network("2001::/23"),  # IETF protocols, RFC 2928; includes Teredo
    ipaddress.ip_network("2002::/16"),  # 6to4, RFC 3056: the relay decides where it ends
    ipaddress.ip_network("3fff::/20"),  # documentation, RFC 9637
)
# Every address that is routed between networks, RFC 4291. Outside are loopback, all forms of
# embedded IPv4, link-local, the deprecated fec0::/10, and blocks that are not assigned yet.
_GLOBAL_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
# RFC 6052: the prefix of DNS64's answers on a network without IPv4. The prefix for local use
# (RFC 8215) leads inside some network, so it is not public.
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
# Upper half of an interface identifier whose lower half is an IPv4 address: ISATAP, RFC 5214.
_ISATAP: Final = frozenset({0x0000_5EFE, 0x0200_5EFE})
_LOW_32_BITS: Final = 0xFFFF_FFFF


def is_public(address: IPAddress) -> bool:
    """Whether the whole Internet can reach this address, and the IPv4 address embedded in it."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = _embedded(address)
        if inner is not None and not is_public(inner):
            return False
        if address in _NAT64:  # Python counts it as reserved
            return True
        if address not in _GLOBAL_UNICAST:
            return False
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    return not any(address in net for net in _INSIDE if net.version == address.version)


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that a translator or a tunnel on the way would extract."""
    number = int(address)
    if address in _NAT64 or number >> 32 & _LOW_32_BITS in _ISATAP:
        return ipaddress.IPv4Address(number & _LOW_32_BITS)
    return None


@dataclass(frozen=True)
class FetchAllow:
    """The addresses that `RESNEXT_FETCH_ALLOW` opens; `contract.fetch_allow` reads its entries."""

    openings: tuple[Opening, ...] = ()

    @classmethod
    def parse(cls, entries: Iterable[str]) -> Self:
        """
        Raises:
            ValueError: an entry cannot match anything.
        """
        return cls(tuple(map(Opening.read, entries)))

    def permits(self, host: str, port: int, address: IPAddress) -> bool:
        """Whether a connection for this host may go to this address."""
        if is_public(address):
            return True
        name = host.lower().rstrip(".")
        return any(opening.opens(name, port, address) for opening in self.openings)


def parse_address(text: str) -> IPAddress:
    """Parses an address from `getaddrinfo`, which may have a zone; the zone is ignored."""
    return ipaddress.ip_address(text.partition("%")[0])
