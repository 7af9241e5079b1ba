"""If descriptors run out, fewer fetches run at once, and none fails because of it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from itertools import count

import pytest

from tests.fetching import Fetching
from tests.servers.raw import saying, serving
from tests.servers.silent import serving_silence
from tests.wait import WITHIN_S
from worker.loader.fetch import descriptors

# The server announces that it closes after each answer. Otherwise libcurl gives up after it has
# found five kept connections closed.
PICTURE = saying(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 9\r\n\r\na picture")

# A separate process. Its limit leaves it only a few more descriptors than it has open, which is
# fewer than it had at its start.
SHORT = """
import logging, os, resource, sys
from tests.fetching import Fetching

logging.basicConfig()
uris = [f"http://127.0.0.1:{sys.argv[1]}/{n}.jpg" for n in range(60)]
fetcher = Fetching(slots=60, fetch_allow="127.0.0.1")
opened = max(map(int, os.listdir("/proc/self/fd")))
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 6, most))
for came in fetcher.fetch_all(uris).values():
    if type(came).__name__ != "Fetched":
        logging.warning("%s", came)
    else:
        print("fetched")
"""


def needed(fetches: int) -> int:
    """The lowest number of descriptors that permits so many fetches at once."""
    return next(n for n in count() if descriptors.fetches_within(n) >= fetches)


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_fetches_that_find_no_descriptor_wait_for_others_and_succeed() -> None:
    with serving(PICTURE) as server, start(SHORT, server.port) as process:
        told, logged = process.communicate(timeout=WITHIN_S)
    assert told.count("fetched") == 60, logged
    assert logged.count("no descriptors left") == 1, logged


def test_a_loader_runs_no_more_fetches_than_its_descriptors_permit() -> None:
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed(100), most))
    try:
        assert Fetching(slots=512).fetcher._most == 100
        assert Fetching(slots=50).fetcher._most == 50
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, most))


# Prints by how many MB 2,000 requests without an answer increase the process's memory.
MANY = """
import select, sys
from pathlib import Path
from tests.fetching import Fetching

def resident_mb():
    (line,) = [one for one in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in one]
    return int(line.split()[1]) / 1024

fetcher = Fetching(slots=2000, fetch_allow="127.0.0.1", fetch_deadline_s=3600)
fetcher.body(f"http://127.0.0.1:{sys.argv[1]}/now.jpg")
before_mb, told = resident_mb(), []
for n in range(2000):
    fetcher.begin(f"http://127.0.0.1:{sys.argv[2]}/{n}.jpg")
fetcher.loop.watch(0, select.EPOLLIN, lambda _: told.append(sys.stdin.readline()))
while not told:
    fetcher.loop.turn()
print(resident_mb() - before_mb)
"""


@pytest.fixture
def _many_descriptors() -> Iterator[None]:
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < needed(2000):
        pytest.skip("the system permits too few descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed(2000), most))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, most))


@pytest.mark.usefixtures("_many_descriptors")
def test_two_thousand_fetches_at_once_take_little_memory() -> None:
    with (
        serving(PICTURE) as server,
        serving_silence(2000) as silent,
        start(MANY, server.port, silent.port) as process,
    ):
        assert silent.full.wait(WITHIN_S)
        told, errors = process.communicate("all have come\n", timeout=WITHIN_S)
    assert float(told) < 120, errors
