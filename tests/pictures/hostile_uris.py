"""URIs that lead to internal addresses in every known disguise, with the code each must end with.

Two codes are given where the outcome depends on a library's version. `PORT` is the port of
everything that listens locally. `SECRET` must appear in no detail.
"""

# ruff: noqa: RUF001  (these letters are meant to be mistaken for others)

from __future__ import annotations

import ipaddress
from contextlib import suppress

SECRET = "s3cr3t"
END = f":PORT/a.jpg?token={SECRET}"

# Hosts that are addresses, in every notation.
ADDRESSES = (
    # loopback: in decimal, octal, hex, in fewer parts, with more zeros
    *("127.0.0.1", "127.1", "127.0.1", "127.0.0.2", "127.255.255.254", "2130706433"),
    *("0x7f000001", "0X7F000001", "0x7f.1", "0x7f.0.0.1", "0x7f.0x0.0x0.0x1", "017700000001"),
    *("0177.0.0.1", "0177.1", "0177.0.0.01", "0000177.0.0.1", "127.0x0.0.1", "127.0.00.01"),
    *("0x000000007f.1", "127.65534"),
    # this host
    *("0.0.0.0", "0", "0x0", "00", "0.0.0.1"),
    # private
    *("10.0.0.1", "10.1", "167772161", "0xa000001", "012.0.0.1", "10.255.255.255"),
    *("172.16.0.1", "172.31.255.254", "2886729729", "192.168.0.1", "192.168.1", "3232235521"),
    *("0xc0a80001", "0300.0250.0.1"),
    # carrier-grade NAT, link-local, and where clouds keep credentials
    *("100.64.0.1", "100.127.255.254", "100.100.100.200", "1681915904"),
    *("169.254.0.1", "169.254.169.254", "2852039166", "0xa9fea9fe", "169.254.43518"),
    *("0xa9.0xfe.0xa9.0xfe", "0251.0376.0251.0376", "0xa9.254.0251.254", "169.16689662"),
    *("168.63.129.16", "2822734096", "0xa83f8110", "192.0.0.192"),
    # reserved, documentation, benchmarks, relays, multicast, broadcast
    *("192.0.0.8", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.19.255.254"),
    *("198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1"),
    *("255.255.255.255", "4294967295"),
    # loopback and unspecified, in IPv6
    *("[::1]", "[0:0:0:0:0:0:0:1]", "[0000:0000:0000:0000:0000:0000:0000:0001]", "[::]"),
    *("[::0:1]", "[0::1]"),
    # IPv4 inside IPv6: mapped, compatible, translated
    *("[::ffff:127.0.0.1]", "[::FFFF:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:7f00:1]"),
    *("[::ffff:0.0.0.0]", "[::ffff:10.0.0.1]", "[::ffff:192.168.0.1]", "[::ffff:a9fe:a9fe]"),
    *("[::ffff:169.254.169.254]", "[::ffff:168.63.129.16]", "[::ffff:8.8.8.8]"),
    *("[::127.0.0.1]", "[::7f00:1]", "[::10.0.0.1]", "[::169.254.169.254]"),
    *("[::ffff:0:127.0.0.1]", "[::ffff:0:7f00:1]"),
    # through NAT64, 6to4, Teredo, ISATAP
    *("[64:ff9b::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b::10.0.0.1]"),
    *("[64:ff9b::169.254.169.254]", "[64:ff9b::a83f:8110]", "[64:ff9b::0.0.0.0]"),
    *("[64:ff9b:1::127.0.0.1]", "[64:ff9b:1:7f00:0:100::]", "[64:ff9b:1::8.8.8.8]"),
    *("[2002:7f00:1::]", "[2002:7f00:1::1]", "[2002:a00:1::1]", "[2002:a9fe:a9fe::1]"),
    *("[2002:c0a8:1::1]", "[2002:808:808::1]"),
    *("[2001::1]", "[2001:0:7f00:1::]", "[2001:0:4136:e378:8000:63bf:80ff:fffe]"),
    *("[2001:0:4136:e378:8000:63bf:f7f7:f7f7]", "[2606:4700::5efe:7f00:1]"),
    *("[2606:4700::200:5efe:10.0.0.1]",),
    # site-local, unique local, link-local, with and without a zone
    *("[fec0::1]", "[fec0::ffff:1]", "[feff::1]", "[fc00::1]", "[fd00::1]"),
    *("[fd00:ec2::254]", "[fd20:ce::254]", "[fe80::1]", "[fe80::a9fe:a9fe]", "[febf::1]"),
    *("[fe80::1%25lo]", "[fe80::1%251]", "[fe80::1%lo]"),
    # reserved, documentation, discarded, multicast
    *("[2001:db8::1]", "[3fff::1]", "[2001:10::1]", "[2001:2::1]", "[100::1]", "[5f00::1]"),
    *("[4000::1]", "[ff01::1]", "[ff02::1]", "[ff05::2]", "[ff0e::1]"),
)

# Hosts that are names, or look like an address but are not one.
NAMES = {
    "localhost": "blocked_address",
    "LocalHost": "blocked_address",
    "127。0。0。1": "bad_uri or blocked_address",  # Chinese and Japanese full stops
    "127．0．0．1": "bad_uri or blocked_address",
    "127｡0｡0｡1": "bad_uri or blocked_address",
    "169。254。169。254": "bad_uri or blocked_address",
    "２１３０７０６４３３": "bad_uri",  # wide digits, or not allowed in names
    "１２７.０.０.１": "bad_uri",
    "①②⑦.⓪.⓪.①": "bad_uri",
    "¹²⁷.⁰.⁰.¹": "bad_uri",
    "𝟏𝟐𝟕.𝟎.𝟎.𝟏": "bad_uri",
    "ｌｏｃａｌｈｏｓｔ": "bad_uri",
    "ⓛocalhost": "bad_uri",
    "127.0.0.1\u200b": "bad_uri",
    "loc\u00adalhost": "bad_uri",
    "١٢٧.٠.٠.١": "bad_uri",
    "127.0.0.1.": "dns or blocked_address",  # depends on glibc's version
    "127.0.0.1..": "dns or blocked_address",
    "127.0.0.256": "dns",
    "127.0.0.1.1": "dns",
    "6425673729": "dns",  # 127.0.0.1 plus 2 to the 32
    "0x17f000001": "dns",
    "0x7f.0.0.0x100": "dns",
    "127.0.0.0x1g": "dns",
    "127%2e0%2e0%2e1": "bad_uri",
    "loc%61lhost": "bad_uri",
    "127.0.0.1%00.example": "bad_uri",
    "[::1%25lo]": "dns or blocked_address",
    "[::1%251]": "dns or blocked_address",
    "inside.test": "blocked_address",
    "INSIDE.Test": "blocked_address",
    "inside.test.": "blocked_address",
    "127.0.0.1.inside.test": "blocked_address",
    "xn--mnchen-3ya.test": "blocked_address",
    "münchen.test": "blocked_address",
    "both.inside.test": "blocked_address",
    "nobody.test": "dns",
}

# Whole URIs that are misleading, and other schemes.
ODDITIES = {
    f"http://example.org@127.0.0.1{END}": "bad_uri",
    f"http://me:{SECRET}@127.0.0.1{END}": "bad_uri",
    f"http://me:{SECRET}@[::1]{END}": "bad_uri",
    f"http://@127.0.0.1{END}": "bad_uri",
    f"http://:{SECRET}@127.0.0.1{END}": "bad_uri",
    f"http://example.org:80@127.0.0.1{END}": "bad_uri",
    f"http://me:{SECRET}@example.org@127.0.0.1{END}": "bad_uri",
    f"http://example.org%40127.0.0.1{END}": "bad_uri",
    f"http://example.org\\@127.0.0.1{END}": "bad_uri",
    f"http://127.0.0.1:PORT\\@example.org/{SECRET}": "bad_uri",
    f"http://127.0.0.1:PORT;@example.org/{SECRET}": "bad_uri",
    f"http://127.0.0.1:PORT#@example.org/{SECRET}": "blocked_address",
    f"http://127.0.0.1:PORT?@example.org/{SECRET}": "blocked_address",
    f"http://me:{SECRET}@example.org\uff03@127.0.0.1{END}": "bad_uri",
    f"http://127.0.0.1\uff0f@example.org/{SECRET}": "bad_uri",
    f"http://exa\u2100mple.org:{SECRET}/": "bad_uri",
    f"http://127.0.0.1/{SECRET}": "blocked_address",
    f"http://127.0.0.1:/{SECRET}": "blocked_address",
    f"http://127.0.0.1:00080/{SECRET}": "blocked_address",
    f"http://127.0.0.1:+80/{SECRET}": "bad_uri",
    f"http://127.0.0.1:８０/{SECRET}": "bad_uri",
    f"http://127.0.0.1:65616/{SECRET}": "bad_uri",
    f"http://127.0.0.1:-1/{SECRET}": "bad_uri",
    f"http://127.0.0.1:{SECRET}/": "bad_uri",
    f"http://127.0.0.1:PORT:80/{SECRET}": "bad_uri",
    f"http://[::1{END}": "bad_uri",
    f"http://::1{END}": "bad_uri",
    f"http://[127.0.0.1]{END}": "bad_uri",
    f"http://[{SECRET}]/": "bad_uri",
    f"http://[v1.fe80]{END}": "bad_uri",
    f"https://127.0.0.1{END}": "blocked_address",
    f"HTTPS://[::1]{END}": "blocked_address",
    f"hTTp://127.0.0.1{END}": "blocked_address",
    f"http:127.0.0.1{END}": "bad_uri",
    f"http:/127.0.0.1{END}": "bad_uri",
    f"http:///127.0.0.1{END}": "bad_uri",
    f"http:////127.0.0.1{END}": "bad_uri",
    f"http:\\\\127.0.0.1{END}": "bad_uri",
    f"//127.0.0.1{END}": "blocked_scheme",
    f"\\\\127.0.0.1{END}": "blocked_scheme",
    f"127.0.0.1{END}": "blocked_scheme",
    f"url:http://127.0.0.1{END}": "blocked_scheme",
    f"ftp://127.0.0.1{END}": "blocked_scheme",
    f"ftps://127.0.0.1{END}": "blocked_scheme",
    f"sftp://127.0.0.1{END}": "blocked_scheme",
    f"tftp://127.0.0.1{END}": "blocked_scheme",
    f"gopher://127.0.0.1{END}": "blocked_scheme",
    f"dict://127.0.0.1{END}": "blocked_scheme",
    f"ldap://127.0.0.1{END}": "blocked_scheme",
    f"redis://127.0.0.1{END}": "blocked_scheme",
    f"smb://127.0.0.1{END}": "blocked_scheme",
    f"ws://127.0.0.1{END}": "blocked_scheme",
    f"http+unix://%2Frun%2Fdocker.sock/{SECRET}": "blocked_scheme",
    f"unix:///run/docker.sock?{SECRET}": "blocked_scheme",
    f"jar:http://127.0.0.1{END}!/": "blocked_scheme",
    f"view-source:http://127.0.0.1{END}": "blocked_scheme",
    f"javascript:fetch('http://127.0.0.1{END}')": "blocked_scheme",
    f"data:text/html,{SECRET}": "blocked_scheme",
    f"blob:http://127.0.0.1{END}": "blocked_scheme",
    f"php://filter/resource=http://127.0.0.1{END}": "blocked_scheme",
    f"file:///proc/self/environ?{SECRET}": "bad_uri",
    "file:///proc/self/environ": "blocked_path",
    "FILE:///etc/passwd": "blocked_path",
    "file:/etc/passwd": "blocked_path",
    "file:////etc/passwd": "blocked_path",
    "file://localhost/etc/passwd": "blocked_path",
    f"file://127.0.0.1/{SECRET}": "bad_uri",
    f"file://me:{SECRET}@127.0.0.1/a.jpg": "bad_uri",
    f"file://me:{SECRET}@exa\u2100mple.org/a.jpg": "bad_uri",
}

HOSTS = dict.fromkeys(ADDRESSES, "blocked_address") | NAMES
URIS = {f"http://{host}{END}": code for host, code in HOSTS.items()} | ODDITIES


def answers_of_dns() -> list[str]:
    """The addresses in `ADDRESSES` that a name server can return."""
    found = []
    for host in ADDRESSES:
        with suppress(ValueError):
            address = ipaddress.ip_address(host.strip("[]"))
            if "%" not in host:
                found.append(str(address))
    return sorted(set(found))
