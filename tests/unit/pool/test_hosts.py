"""Hosts: how many images of each are in flight, which ones are parked, and whose turn it is."""

from __future__ import annotations

from typing import Any

import pytest

from worker.pool.hosts import HostLimits, Hosts, host_of


@pytest.fixture
def rooms() -> list[str]:
    """Gets a word each time there is room again."""
    return []


@pytest.fixture
def asked() -> list[str]:
    """The hosts for which permission was asked."""
    return []


def make_hosts(**limits: Any) -> Hosts[str]:
    values = {"places": 2, "line": 4, "parked": 100, "when_room": lambda: None} | limits
    bounds = HostLimits(**{name: values.pop(name) for name in ("places", "line", "parked")})
    return Hosts(bounds, **values)


def busy(hosts: Hosts[str], host: str, *parked: str) -> Hosts[str]:
    """Takes both places of the host, and parks these images."""
    hosts.begin(host)
    hosts.begin(host)
    for image in parked:
        hosts.park(host, image)
    return hosts


def take_all(hosts: Hosts[str]) -> list[str]:
    taken = []
    while hosts.ready:
        taken.append(hosts.take())
    return taken


@pytest.mark.parametrize(
    ("uri", "host"),
    [
        ("https://Example.ORG:8443/a.jpg", "example.org"),
        ("HTTP://example.org./a.jpg?b@c", "example.org"),
        ("http://[2001:DB8::1]/a.jpg", "2001:db8::1"),
        ("http://[2001:db8:0::1]/a.jpg", "2001:db8::1"),
        ("http://127.0.0.1:8000/a.jpg", "127.0.0.1"),
        ("http://0x7f.1/a.jpg", "127.0.0.1"),
        ("http://2130706433/a.jpg", "127.0.0.1"),
        ("http://127.1/a.jpg", "127.0.0.1"),
        ("http://010.0.0.1/a.jpg", "8.0.0.1"),
        ("http://bücher.example/a.jpg", "xn--bcher-kva.example"),
        ("http://a_b.example/a.jpg", "a_b.example"),
        ("s3://pictures/a.jpg", "pictures"),
        ("http://example.org%2e/a.jpg", None),
        ("http://evil\\.example.org/a.jpg", None),
        ("file:///data/a.jpg", None),
        ("FILE://localhost/data/a.jpg", None),
        ("http://[broken/a.jpg", None),
        ("http:///a.jpg", None),
        ("nonsense", None),
    ],
)
def test_all_spellings_of_a_server_are_one_host(uri: str, host: str) -> None:
    assert host_of(uri) == host


def test_an_image_must_wait_once_its_host_has_no_free_place() -> None:
    hosts = make_hosts()
    assert not hosts.must_wait("a")
    busy(hosts, "a")
    assert hosts.must_wait("a")
    assert not hosts.must_wait("b")


def test_the_oldest_parked_image_goes_first_and_newer_ones_wait() -> None:
    hosts = busy(make_hosts(), "a", "first", "second")
    assert not hosts.ready
    hosts.end("a")
    assert hosts.must_wait("a"), "the parked image comes first"
    assert take_all(hosts) == ["first"]
    hosts.end("a")
    hosts.end("a")
    assert take_all(hosts) == ["second"]
    assert not hosts.must_wait("a")


def test_hosts_take_turns() -> None:
    hosts = busy(busy(make_hosts(), "a", "a1", "a2"), "b", "b1", "b2")
    for host in "aabb":
        hosts.end(host)
    assert take_all(hosts) == ["a1", "b1", "a2", "b2"]


def test_files_have_no_host_and_are_not_counted() -> None:
    hosts = make_hosts(places=1)
    for _ in range(5):
        hosts.begin(None)
    hosts.end(None)
    assert not hosts.ready


def test_a_full_line_has_room_again_once_half_of_it_has_gone(rooms: list[str]) -> None:
    hosts = make_hosts(when_room=lambda: rooms.append("room"))
    busy(hosts, "a", "1", "2", "3")
    assert hosts.has_room("a")
    hosts.park("a", "4")
    assert not hosts.has_room("a")
    assert hosts.has_room("b")
    hosts.end("a")
    assert (hosts.take(), hosts.has_room("a"), rooms) == ("1", False, [])
    hosts.end("a")
    assert (hosts.take(), hosts.has_room("a"), rooms) == ("2", True, ["room"])


def test_all_hosts_together_park_no_more_than_the_limit(rooms: list[str]) -> None:
    hosts = make_hosts(parked=4, when_room=lambda: rooms.append("room"))
    busy(busy(hosts, "a", "1", "2"), "b", "3", "4")
    assert not any(map(hosts.has_room, "abc"))
    hosts.end("a")
    hosts.end("b")
    assert len(take_all(hosts)) == 2
    assert all(map(hosts.has_room, "abc"))
    assert rooms == ["room"]


def test_a_host_with_a_ready_image_is_not_held_up() -> None:
    hosts = busy(make_hosts(), "a", "1")
    assert hosts.is_held_up("a")
    hosts.end("a")
    assert hosts.ready
    assert not hosts.is_held_up("a")
    assert not hosts.is_held_up("b")


def test_parked_images_do_not_go_out_after_the_pool_stops() -> None:
    hosts = busy(make_hosts(), "a", "1", "2")
    hosts.end("a")
    hosts.clear()
    hosts.end("a")
    assert not hosts.ready


def test_a_host_with_nothing_to_do_is_forgotten() -> None:
    """A crawl has millions of hosts."""
    hosts = busy(make_hosts(), "a", "1")
    for _ in range(2):
        hosts.end("a")
    assert take_all(hosts) == ["1"]
    hosts.end("a")
    assert hosts._hosts == {}


# A rate


def test_with_a_rate_permission_is_asked_for_one_image_at_a_time(asked: list[str]) -> None:
    hosts = make_hosts(ask=asked.append)
    assert hosts.must_wait("a")
    for image in ("1", "2"):
        hosts.park("a", image)
    hosts.park("b", "3")
    assert (asked, hosts.ready) == (["a", "b"], False)
    hosts.permit("a")
    assert take_all(hosts) == ["1"]
    assert asked == ["a", "b", "a"]


def test_no_permission_is_asked_while_the_host_has_no_free_place(asked: list[str]) -> None:
    hosts = make_hosts(places=1, ask=asked.append)
    for image in ("1", "2"):
        hosts.park("a", image)
    hosts.permit("a")
    assert take_all(hosts) == ["1"]
    assert asked == ["a"]
    hosts.end("a")
    assert asked == ["a", "a"]


def test_a_host_is_held_up_until_it_has_permission(asked: list[str]) -> None:
    hosts = make_hosts(ask=asked.append)
    hosts.park("a", "1")
    assert hosts.is_held_up("a")
    hosts.permit("a")
    assert not hosts.is_held_up("a")


def test_a_permission_after_the_stop_has_no_effect(asked: list[str]) -> None:
    hosts = make_hosts(ask=asked.append)
    hosts.park("a", "1")
    hosts.clear()
    hosts.permit("a")
    hosts.permit("b")
    assert not hosts.ready
