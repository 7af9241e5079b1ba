"""Which addresses are public and which are internal: by the registries, on every Python version."""

from __future__ import annotations

import ipaddress

import pytest

from contract.addresses import FetchAllow, is_public

# The networks in IANA's special-purpose registries that are not globally reachable. The registries
# do not list the rest: unassigned parts of IPv6, multicast, and clouds' metadata.
INSIDE = [
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
    *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16"),
    *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    *("168.63.129.16/32", "255.255.255.255/32"),
    *("::/128", "::1/128", "::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b:1::/48"),
    *("100::/64", "100:0:0:1::/64", "2001::/23", "2001::/32", "2001:2::/48", "2001:db8::/32"),
    *("2001:10::/28", "2002::/16", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10"),
    *("fec0::/10", "ff00::/8", "4000::/2", "8000::/1", "1000::/4"),
    *("64:ff9b::10.0.0.0/104", "64:ff9b::127.0.0.0/104", "64:ff9b::169.254.0.0/112"),
    *("2606:4700::5efe:127.0.0.1/128", "2606:4700::200:5efe:10.0.0.1/128"),
]
PUBLIC = [
    *("1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "93.184.216.34", "100.63.255.255"),
    *("100.128.0.0", "126.255.255.255", "128.0.0.0", "169.253.255.255", "169.255.0.0"),
    *("168.63.129.15", "168.63.129.17", "172.15.255.255", "172.32.0.0", "191.255.255.255"),
    *("192.0.1.0", "192.0.3.0", "192.88.98.255", "192.88.100.0", "192.167.255.255"),
    *("192.169.0.0", "198.17.255.255", "198.20.0.0", "198.51.99.255", "198.51.101.0"),
    *("203.0.112.255", "203.0.114.0", "223.255.255.255"),
    *("2001:200::", "2001:4860:4860::8888", "2001:db7:ffff::", "2001:db9::", "2003::1"),
    *("2400:cb00::1", "2606:4700:4700::1111", "2a00:1450:4001::1", "2c0f::1", "3ffe:ffff::"),
    *("64:ff9b::8.8.8.8", "2606:4700::5efe:8.8.8.8", "2620:fe::fe"),
]


@pytest.mark.parametrize("network", INSIDE)
def test_no_address_of_a_special_network_is_public(network) -> None:
    found = ipaddress.ip_network(network)
    for address in (found[0], found[-1], found[found.num_addresses // 2]):
        assert not is_public(address), address


@pytest.mark.parametrize("address", PUBLIC)
def test_every_other_address_is_public(address) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    ("entry", "host", "port", "address"),
    [
        ("images.internal", "IMAGES.internal.", 80, "10.0.0.1"),
        ("images.internal:8080", "images.internal", 8080, "10.0.0.1"),
        ("10.1.0.0/16", "anything.example", 80, "10.1.2.3"),
        ("10.1.2.3", "anything.example", 80, "10.1.2.3"),
        ("10.1.2.3:8080", "anything.example", 8080, "10.1.2.3"),
        ("fd00::/8", "anything.example", 80, "fd00::1"),
        ("[fd00::1]", "[fd00::1]", 80, "fd00::1"),
        ("[fd00::1]:8080", "anything.example", 8080, "fd00::1"),
        ("[FD00::0001]:8080", "anything.example", 8080, "fd00::1"),
        ("Images.Internal.", "images.internal", 80, "10.0.0.1"),
        ("images.internal.:8080", "images.internal", 8080, "10.0.0.1"),
        ("*.internal", "images.internal", 80, "10.0.0.1"),
        (".internal", "a.b.INTERNAL.", 80, "10.0.0.1"),
        ("*.internal:8080", "images.internal", 8080, "10.0.0.1"),
        ("image_store", "image_store", 80, "10.0.0.1"),
        ("0.0.0.0/0", "anything.example", 80, "10.1.2.3"),
        ("::/0", "anything.example", 80, "fd00::1"),
    ],
)
def test_an_allowed_entry_opens_its_addresses_but_not_their_neighbours(
    entry, host, port, address
) -> None:
    allow, found = FetchAllow.parse([entry]), ipaddress.ip_address(address)
    assert allow.permits(host, port, found)
    assert not FetchAllow().permits(host, port, found)
    if "/0" not in entry:
        other = ipaddress.ip_address("192.168.0.1" if found.version == 4 else "fe80::1")
        assert not allow.permits("other.example", port, other)
    if ":8080" in entry:
        assert not allow.permits(host, 80, found)


@pytest.mark.parametrize("entry", ["*.internal", ".internal"])
@pytest.mark.parametrize(
    "host", ["internal", "xinternal", "internal.example", "a.internal.evil.org"]
)
def test_a_suffix_opens_only_hosts_below_it(entry, host) -> None:
    allow = FetchAllow.parse([entry])
    assert not allow.permits(host, 80, ipaddress.ip_address("10.0.0.1"))


def test_an_allowed_ipv4_network_opens_none_of_its_disguises_in_ipv6() -> None:
    allow = FetchAllow.parse(["127.0.0.0/8"])
    for disguise in ("::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::127.0.0.1", "2002:7f00:1::"):
        assert not allow.permits("a.example", 80, ipaddress.ip_address(disguise))
