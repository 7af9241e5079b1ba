"""The row for new HTTPS connections: the CPU time of each one in a loader's loop.

Called by benchmarks/pipeline.py. Every fetch opens a new connection with a full handshake, and
trusts all of certifi's authorities, as loaders do by default.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import certifi
from rich.table import Table

from benchmarks.rig.figures import shown, spread
from benchmarks.rig.tls_web import serving_tls
from benchmarks.rows.row import Conditions, Series, verdict
from contract.settings import Settings
from tests.servers.tls import AUTHORITY, HOST
from worker.loader.fetch.fetcher import Fetched, Fetcher
from worker.loader.fetch.loop import Loop
from worker.loader.fetch.settings import FetchSettings

CONNECTIONS = 1_000
AT_ONCE = 32
MARK_MS = 2.0


def new_connections(conditions: Conditions) -> Table:
    series = Series("a new HTTPS connection")
    connections = conditions.images(CONNECTIONS)
    with trusting(conditions.scratch), serving_tls() as address:
        loop = Loop()
        settings = FetchSettings.of(Settings(fetch_allow=(HOST,)))
        fetcher = Fetcher(settings, loop, slots=AT_ONCE)
        fetch(fetcher, loop, address, 1)  # reads the authorities, which a loader does once
        for _ in range(conditions.rounds):
            began = time.thread_time()
            fetch(fetcher, loop, address, connections)
            series.note(1000 * (time.thread_time() - began) / connections, "ms of CPU")
    table = Table("", "CPU ms", "spread", title="New HTTPS connections in a loader")
    table.add_row(series.name, shown(series.median), spread(series.values))
    table.caption = (
        f"{verdict('CPU ms:', series.values, MARK_MS, least=False)}\n{connections:,} per round, "
        f"{AT_ONCE} at once, no session is resumed"
    )
    return table


def fetch(fetcher: Fetcher, loop: Loop, address: str, number: int) -> None:
    """
    Raises:
        RuntimeError: a fetch failed.
    """
    came: list[object] = []
    for n in range(number):
        fetcher.begin(f"{address}/{n}.jpg", None, came.append)
    while len(came) < number:
        loop.turn()
    failed = [one for one in came if not isinstance(one, Fetched)]
    if failed:
        raise RuntimeError(f"{len(failed)} of {number} failed: {failed[0]}")


@contextmanager
def trusting(folder: Path) -> Iterator[None]:
    """Certifi's authorities, plus the tests' own."""
    path = folder / "authorities.pem"
    path.write_bytes(Path(certifi.where()).read_bytes() + AUTHORITY.read_bytes())
    before = os.environ.get("REQUESTS_CA_BUNDLE")
    os.environ["REQUESTS_CA_BUNDLE"] = str(path)
    try:
        yield
    finally:
        os.environ.pop("REQUESTS_CA_BUNDLE")
        if before is not None:
            os.environ["REQUESTS_CA_BUNDLE"] = before
