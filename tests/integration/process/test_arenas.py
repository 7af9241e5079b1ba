"""The memory of `resnextq serve`: its threads share the C library's arenas."""

from __future__ import annotations

import platform
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine

from contract.settings import Settings
from producer.api.keys import create_key
from producer.api.server import ARENAS
from tests.servers.api import Caller, running

CALLERS = 16
ARENA_BYTES = 64 << 20
"""glibc maps an arena's memory at a multiple of this."""
NO_FILE = ["rw-p", "00000000", "00:00", "0"]
"""What /proc/PID/maps says of a writable mapping of no file."""


def arenas_of(pid: int) -> int:
    """Counts the writable mappings of no file that begin where an arena begins."""
    mapped = [line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    starts = [int(one[0].partition("-")[0], 16) for one in mapped if one[1:] == NO_FILE]
    return sum(start % ARENA_BYTES == 0 for start in starts)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has arenas")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_many_requests_at_once_do_not_get_an_arena_each(
    settings: Settings, engine: Engine, tmp_path: Path
) -> None:
    with running(settings, tmp_path / "serve.log") as (pid, url):
        reader = Caller(url, create_key(engine, "reader", ["read"], "bob"))
        with ThreadPoolExecutor(CALLERS) as callers:
            answers = list(callers.map(lambda _: reader.get("/v1/jobs"), range(20 * CALLERS)))
        assert {answer.status_code for answer in answers} <= {200, 429}
        # The first arena is the heap, which is no mapping. Threads of other libraries may hold one.
        assert arenas_of(pid) <= ARENAS + 1
