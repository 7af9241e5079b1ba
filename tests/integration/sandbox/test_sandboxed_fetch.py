"""Fetching from inside the sandbox, with TLS certificates and DNS."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.settings import Settings
from tests.integration.sandbox.inside import inside
from tests.pictures.demo import GOOD
from tests.pools import Pool
from tests.servers.names import NameServer, answering_names
from tests.servers.raw import saying, serving
from tests.servers.sites import picture
from tests.servers.tls import CERTIFICATES, tls_of
from worker.loader.config import THREADS
from worker.loader.sandbox import landlock

NAME_SERVER = Path(__file__).parents[2] / "servers" / "names.py"
PICTURE = saying(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(picture()), picture())

pytestmark = pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")


@pytest.fixture
def pool() -> Iterator[Pool]:
    """A pool of one sandboxed loader."""
    pool = Pool(Settings(loaders=1, fetch_allow=("127.0.0.1",), sandbox="required"))
    pool.inner.start()
    yield pool
    pool.inner.close()


def code_of(pool: Pool, uri: str, root: Path | None = None) -> str | None:
    pool.inner.load(uri, pool._note(uri), root=root)
    ((_, failure),) = pool.answers(1)
    return failure and failure.code


@pytest.fixture
def authority(tmp_path: Path, monkeypatch) -> Path:
    """The tests' certificate authority, in a folder that is not otherwise readable inside."""
    bundle = tmp_path / "certificates" / "authority.pem"
    bundle.parent.mkdir()
    shutil.copy(CERTIFICATES / bundle.name, bundle)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    return bundle


def test_a_certificate_is_checked_inside(authority: Path, pool: Pool) -> None:
    neighbour = authority.with_name("neighbour.jpg")
    shutil.copy(GOOD, neighbour)
    assert code_of(pool, neighbour.as_uri(), root=neighbour) == "unreadable", (
        "the loader is in the sandbox"
    )
    with serving(PICTURE, tls_of("good")) as server:
        assert code_of(pool, f"{server.address}/a.png") is None
        assert len(server.requests) == 1
    for name in ("self-signed", "other-host", "expired"):
        with serving(PICTURE, tls_of(name)) as server:
            assert (name, code_of(pool, f"{server.address}/a.png")) == (name, "tls")
            assert not any(server.requests)


def test_a_loader_has_three_threads(pool: Pool) -> None:
    """The threads are the loop, the decoder, and a watcher of the sandbox's files."""
    with serving(PICTURE) as server:
        assert code_of(pool, f"{server.address}/a.png") is None
    assert len(list(Path(f"/proc/{pool.inner.processes[0].child.pid}/task").iterdir())) == THREADS


def test_an_unconfigured_authority_is_not_trusted_inside(pool: Pool) -> None:
    with serving(PICTURE, tls_of("good")) as server:
        assert code_of(pool, f"{server.address}/a.png") == "tls"


def test_the_default_authorities_are_readable_inside(tmp_path: Path) -> None:
    """Otherwise every server would fail with `tls`, and the other tests could not notice."""
    program = (
        "import certifi, ssl\n"
        "print(len(ssl.create_default_context(cafile=certifi.where()).get_ca_certs()))\n"
    )
    done = inside(tmp_path, program)
    assert int(done.stdout) > 1, done.stderr


@pytest.fixture
def names(tmp_path: Path, monkeypatch) -> Iterator[NameServer]:
    """A name server that sandboxed loaders use through the machine's own resolver."""
    library = tmp_path / "library"
    library.mkdir()
    shutil.copy(NAME_SERVER, library / "name_server.py")
    with answering_names() as server:
        (library / "certifi.py").write_text(
            "import name_server, socket, sys\n"
            f"socket.getaddrinfo = name_server.asking({server.port})\n"
            "def where(): return sys.argv[0]\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(library))
        yield server


def test_dns_works_inside(names: NameServer, pool: Pool) -> None:
    """This needs more than the hosts file, which is enough for `localhost`."""
    names.has("pictures.test", ("127.0.0.1",))
    names.has("inside.test", ("10.0.0.1",))
    with serving(PICTURE) as server:
        assert code_of(pool, f"http://pictures.test:{server.port}/a.png") is None
        assert b"Host: pictures.test" in server.requests[0]
    assert code_of(pool, "http://inside.test/a.png") == "blocked_address"
    assert code_of(pool, "http://nowhere.test/a.png") == "dns"
    assert {name for name, _ in names.asked} == {"pictures.test", "inside.test"}


# Addresses of one host: public, private, and of a kind that this machine does not have.
SEVERAL = ("127.0.0.1", "192.0.2.7", "10.1.2.3", "::1", "2001:db8::7", "fe80::1")


@pytest.mark.parametrize("flags", ["0", "socket.AI_ADDRCONFIG"])
def test_a_lookup_inside_gives_the_same_addresses_as_outside(tmp_path: Path, flags: str) -> None:
    """The resolver uses a netlink socket to find the machine's addresses. Inside it gets none."""
    with answering_names() as server:
        server.has("several.test", SEVERAL)
        server.has("one.test", ("127.0.0.1",))
        program = NAME_SERVER.read_text() + (
            f"\nask = asking({server.port})\n"
            "for name in ('several.test', 'one.test'):\n"
            f"    found = ask(name, 80, type=socket.SOCK_STREAM, flags={flags})\n"
            "    print(*sorted(address[0] for _, _, _, _, address in found))\n"
        )
        inner = inside(tmp_path, program)
        outer = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
    assert inner.stdout == outer.stdout, inner.stderr
    assert inner.stdout.splitlines() == [" ".join(sorted(SEVERAL)), "127.0.0.1"]
