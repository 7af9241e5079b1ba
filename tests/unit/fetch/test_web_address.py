"""Each host has one spelling, however the URI writes it."""

from __future__ import annotations

import pytest

from worker.loader.fetch.web_address import parse_web


@pytest.mark.parametrize(
    ("host", "spelled", "is_name"),
    [
        ("Example.ORG", "example.org", True),
        ("a_b.example", "a_b.example", True),
        ("bücher.example", "xn--bcher-kva.example", True),
        ("BÜCHER.example", "xn--bcher-kva.example", True),
        ("0x7f.example", "0x7f.example", True),
        ("123.456.example", "123.456.example", True),
        ("127.0.0.1", "127.0.0.1", False),
        ("0x7f000001", "127.0.0.1", False),
        ("2130706433", "127.0.0.1", False),
        ("0177.1", "127.0.0.1", False),
        ("[2001:DB8:0:0::1]", "2001:db8::1", False),
        ("[FE80::1%25lo]", "fe80::1%lo", False),
    ],
)
def test_a_host_has_one_spelling(host: str, spelled: str, *, is_name: bool) -> None:
    address = parse_web(f"http://{host}:8080/a.jpg")
    assert (address.host, address.port, address.is_name) == (spelled, 8080, is_name)
    again = parse_web(address.uri)
    assert again == address


@pytest.mark.parametrize(
    "uri",
    [
        "http://exam ple.org/",
        "http://127%2e0%2e0%2e1/",
        "http://example.org\\.evil.example/",
        "http://a,b.example/",
        "http://[127.0.0.1]/",
        "http://[v1.fe80]/",
        "http://\uff12\uff11\uff13/",
        "http:///a.jpg",
        "nonsense",
    ],
)
def test_a_uri_without_a_valid_host_is_no_address(uri: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_web(uri)


@pytest.mark.parametrize(
    ("uri", "port", "said"),
    [
        ("http://a.example", 80, "http://a.example/"),
        ("https://a.example:443/b?c", 443, "https://a.example/b?c"),
        ("https://a.example:80/b#c", 80, "https://a.example:80/b"),
        ("http://a.example/ü", 80, "http://a.example/%C3%BC"),
    ],
)
def test_an_address_is_recorded_as_a_uri(uri: str, port: int, said: str) -> None:
    address = parse_web(uri)
    assert (address.port, address.uri) == (port, said)
