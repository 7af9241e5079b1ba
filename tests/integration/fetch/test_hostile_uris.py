"""No URI reaches the internal network: directly, by a redirect, or by a name that changes.

All local addresses are canaries except two allowed servers, one on IPv4 and one on IPv6. The tests
check where connections are attempted, whether or not a server would answer there.
"""

from __future__ import annotations

import itertools
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote, urlsplit

import pytest

from contract.errors import SourceError
from contract.failure import Failure
from producer.submit.check import check
from producer.submit.sources.entry import Entry
from tests.fetching import Fetching
from tests.pictures import hostile_uris
from tests.pictures.hostile_uris import SECRET, URIS
from tests.servers import canary
from tests.servers.canary import V4_EVERYWHERE, V6_EVERYWHERE, Canary, bind_all
from tests.servers.names import NameServer, serving_names
from worker.loader.fetch.fetcher import Fetched

OPEN_V4, OPEN_V6 = "127.77.0.1", "::1"
PICTURE = b"a picture"
ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+|[0-9a-f]*:[0-9a-f]*:[0-9a-f:]*")


class Server(BaseHTTPRequestHandler):
    """`/STATUS?to=URI` redirects to the URI. Every other path is a picture."""

    def do_GET(self) -> None:
        status, redirects, target = self.path[1:].partition("?to=")
        self.send_response(int(status) if redirects else 200)
        if redirects:  # raw UTF-8 bytes, as servers send them
            self.send_header("Location", unquote(target).encode().decode("latin-1"))
        self.send_header("Content-Length", str(len(PICTURE)))
        self.end_headers()
        with suppress(ConnectionError):
            self.wfile.write(PICTURE)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(listener: socket.socket) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Server, bind_and_activate=False) as server:
        server.socket.close()
        server.socket = listener
        server.server_name, server.server_port = "", listener.getsockname()[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield
        server.shutdown()
        thread.join()


@dataclass(frozen=True)
class World:
    """Three ports. On each, all local addresses are canaries except the allowed ones."""

    names: NameServer
    canary: Canary
    v4_port: int
    v6_port: int
    """Allowed on IPv6 only."""
    other_port: int
    """Not allowed at all."""

    @property
    def opened(self) -> set[canary.Target]:
        return {(OPEN_V4, self.v4_port), (OPEN_V6, self.v6_port)}

    @property
    def site(self) -> str:
        return f"http://{OPEN_V4}:{self.v4_port}"

    def make_fetcher(self) -> Fetching:
        """A new fetcher, with an empty DNS cache."""
        allow = (OPEN_V4, f"[{OPEN_V6}]:{self.v6_port}")
        return Fetching(fetch_allow=allow, fetch_deadline_s=60.0)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    v6 = [V6_EVERYWHERE] if canary.has_ipv6() else []
    with ExitStack() as stack, pytest.MonkeyPatch.context() as monkeypatch:
        open_v4, *of_v4 = bind_all(OPEN_V4, V4_EVERYWHERE, *v6)
        *open_v6, of_v6 = bind_all(*([OPEN_V6] if v6 else []), V4_EVERYWHERE)
        others = bind_all(V4_EVERYWHERE, *v6)
        for listener in (open_v4, *of_v4, *open_v6, of_v6, *others):
            stack.enter_context(listener)
        for listener in (open_v4, *open_v6):
            stack.enter_context(serving(listener))
        ports = [one.getsockname()[1] for one in (open_v4, of_v6, others[0])]
        watched = stack.enter_context(canary.listening(*of_v4, of_v6, *others))
        yield World(stack.enter_context(serving_names(monkeypatch)), watched, *ports)


@pytest.fixture
def fetcher(world: World) -> Iterator[Fetching]:
    """A fetcher. After the test, all its connections must have gone to allowed servers."""
    canary.begun()
    yield world.make_fetcher()
    assert set(canary.begun()) <= world.opened
    assert world.canary.visits == 0


Outcomes = Mapping[str, Fetched | Failure]
FETCHED = "fetched"


def others(outcomes: Outcomes, expected: Mapping[str, str]) -> dict[str, str]:
    """The URIs whose outcome is not the expected one."""
    found = {
        uri: one.code if isinstance(one, Failure) else FETCHED for uri, one in outcomes.items()
    }
    return {uri: code for uri, code in found.items() if code not in expected[uri].split(" or ")}


def check_details(outcomes: Outcomes) -> None:
    """No message shows an address or a URI's secret."""
    details = [one.detail for one in outcomes.values() if isinstance(one, Failure)]
    assert all(details)
    assert [one for one in details if SECRET in one or ADDRESS.search(one)] == []


def hostile(world: World) -> dict[str, str]:
    """The table's URIs and their codes, with names that resolve to internal addresses."""
    for name in ("inside.test", "127.0.0.1.inside.test", "xn--mnchen-3ya.test"):
        world.names.has(name, ("127.0.0.1", "::1"))
    world.names.has("both.inside.test", ("10.0.0.1", "fd00::1", "127.0.0.1"))
    return {uri.replace("PORT", str(world.v4_port)): code for uri, code in URIS.items()}


def test_there_are_enough_of_each_kind() -> None:
    assert len(URIS) >= 230
    assert len(hostile_uris.answers_of_dns()) >= 80
    versions = [":" in address for address in hostile_uris.answers_of_dns()]
    assert min(versions.count(True), versions.count(False)) >= 25


def test_no_uri_reaches_the_internal_network(world: World, fetcher: Fetching) -> None:
    expected = hostile(world)
    outcomes = fetcher.fetch_all(expected)
    assert others(outcomes, expected) == {}
    check_details(outcomes)
    assert canary.begun() == []


def test_submit_refuses_what_no_worker_would_fetch_and_names_the_line() -> None:
    refused = {
        uri: code
        for uri, code in hostile_uris.ODDITIES.items()
        if code in ("blocked_scheme", "blocked_path")
    }
    assert len(refused) >= 25
    for uri in refused:
        with pytest.raises(SourceError, match=r"list\.txt, line 7: "):
            list(check([Entry(uri, None, "list.txt", 7)], []))


# Beginnings of URIs without a host: a redirect to them stays on the same server.
OF_THE_SAME_HOST = ("http:127", "http:/127", "http:///", "127.", "\\\\", "http:\\")


def test_no_redirect_reaches_the_internal_network(world: World, fetcher: Fetching) -> None:
    """A redirect without a host leads to a picture on the same server."""
    by_redirect = {f"{world.site}/302?to={quote(uri)}": uri for uri in hostile(world)}
    outcomes = fetcher.fetch_all(by_redirect)
    for uri, one in outcomes.items():
        if isinstance(one, Failure):
            assert one.detail.startswith("redirect: ")
        else:
            assert by_redirect[uri].startswith(OF_THE_SAME_HOST)
            assert (one.final_uri or "").startswith(world.site)
    check_details(outcomes)
    # Non-ASCII letters arrive as raw UTF-8 bytes, which are then read as other letters.
    expected = {
        uri: code
        for uri, target in by_redirect.items()
        if (code := hostile(world)[target]) == "blocked_address" and target.isascii()
    }
    assert others({uri: outcomes[uri] for uri in expected}, expected) == {}
    assert len(expected) >= 130


def test_no_name_reaches_the_internal_network_by_a_second_answer(
    world: World, fetcher: Fetching
) -> None:
    """The connection goes to the first DNS answer, even if a second one would differ.

    Each new lookup, for another port or later, has its answer checked again.
    """
    uris, moved = [], []
    openings = [(OPEN_V4, world.v4_port)]
    openings += [(OPEN_V6, world.v6_port)] if canary.has_ipv6() else []
    for n, address in enumerate(hostile_uris.answers_of_dns()):
        for opening, port in openings:
            stays, moves = f"n{n}-{port}.stays.test", f"n{n}-{port}.moves.test"
            for name in (stays, moves):
                world.names.has(name, (opening,), (address,))
            target = f"http://{moves}:{world.other_port}/a.jpg?{SECRET}"
            moved.append(f"http://{moves}:{port}/302?to={quote(target)}")
            if (address, port) not in world.opened:
                uris.append(f"http://{stays}:{port}/a.jpg?{SECRET}")
    assert others(fetcher.fetch_all(uris), dict.fromkeys(uris, FETCHED)) == {}
    for later in (fetcher.fetch_all(moved), world.make_fetcher().fetch_all(uris)):
        wrong = others(later, dict.fromkeys(later, "blocked_address"))
        # The name server may have given these their first answer again.
        again = {uri for uri in wrong if urlsplit(uri).hostname in world.names.repeated}
        assert set(wrong) - again == set()
        assert len(again) <= len(later) // 50
        check_details(later)


def test_only_the_permitted_of_several_addresses_are_tried(world: World, fetcher: Fetching) -> None:
    uris = []
    for n, address in enumerate(hostile_uris.answers_of_dns()):
        world.names.has(f"n{n}.mixed.test", (address, OPEN_V4))
        uris.append(f"http://n{n}.mixed.test:{world.v4_port}/a.jpg")
    assert others(fetcher.fetch_all(uris), dict.fromkeys(uris, FETCHED)) == {}


# What must still work

GOOD_NAMES = (
    *("a.test", "A.Test", "www.example.test", "a-b.test", "a_b.test", "1.test", "1a.test"),
    *("123.456.test", "0x7f.test", "127.0.0.1.test", "x" * 63 + ".test", "a.b.c.d.e.f.g.test"),
    *("xn--bcher-kva.test", "bücher.test", "BÜCHER.test", "例え.test", "пример.test"),
)
GOOD_HOSTS = (*GOOD_NAMES, OPEN_V4, "127.77.1", "2135752705", "0x7f4d0001")
GOOD_PATHS = (
    *("", "/", "/a.jpg", "/a.jpg?width=1&height=2", "/a.jpg?q=a@b:c", "/a.jpg#part"),
    *("/a%20b/%C3%BC.jpg", "/straße/ü.jpg", "//a//b.jpg", "/a/../b/./c.jpg", "/@user/a;b=c.jpg"),
    *("/http://127.0.0.1/a.jpg", "/?url=http://169.254.169.254/"),
)
REDIRECTED = (301, 302, 303, 307, 308)


def test_good_uris_still_work(world: World, fetcher: Fetching) -> None:
    for name in GOOD_NAMES:
        encoded = name.encode("idna").decode() if not name.isascii() else name
        world.names.has(encoded, (OPEN_V4,))
    uris = [
        f"http://{host}:{world.v4_port}{path}"
        for host, path in itertools.product(GOOD_HOSTS, GOOD_PATHS)
    ]
    uris += [f"HTTP://a.test:{world.v4_port}/a.jpg", f"http://a.test.:{world.v4_port}/a.jpg"]
    uris += [
        f"{world.site}/{status}?to={quote(target)}"
        for status, target in itertools.product(
            REDIRECTED,
            [
                *("/b.jpg", "b.jpg", "?b", "../b.jpg", f"//a.test:{world.v4_port}/b.jpg"),
                f"{world.site}/b.jpg#x",
            ],
        )
    ]
    if canary.has_ipv6():
        uris += [
            f"http://{host}:{world.v6_port}{path}"
            for host, path in itertools.product(("[::1]", "[0:0:0:0:0:0:0:1]"), GOOD_PATHS)
        ]
    assert len(uris) >= len(URIS)
    assert others(fetcher.fetch_all(uris), dict.fromkeys(uris, FETCHED)) == {}
