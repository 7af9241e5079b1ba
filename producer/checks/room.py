"""Checks free space on each disk that this program writes to, and the limit of descriptors."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, func, select

from contract.check import Check
from contract.database.tables import jobs
from contract.settings import PREFIX, Settings

# Below this nothing works: logs, the broker's file, SQLite's log.
LEAST_BYTES: Final = 64 * 2**20
# For logs, the broker's append-only file, and downloaded weights.
ENOUGH_BYTES: Final = 1 * 2**30
# Space in SQLite for a waiting image and its result, with the log of its writes.
BYTES_AN_IMAGE: Final = 600
# For connections of the API or a worker, files and pipes. A server runs short below this.
ENOUGH_DESCRIPTORS: Final = 1024


def check_space(settings: Settings) -> Iterator[Check]:
    """A check for each folder that this program writes to."""
    yield _space("home", settings.home, ENOUGH_BYTES, f"set {PREFIX}HOME")
    yield _space("cache", settings.cache, ENOUGH_BYTES, f"set {PREFIX}CACHE")
    if find_spec("fastapi") is not None:
        largest = settings.api_body_bytes
        advice = f"set TMPDIR, or lower {PREFIX}API_BODY_BYTES"
        yield _space("temporary files", Path(tempfile.gettempdir()), largest, advice)


def check_database_space(engine: Engine, connection: Connection) -> Iterator[Check]:
    """Whether an SQLite file has room for all waiting images. PostgreSQL's disk is not visible
    here.
    """
    if engine.dialect.name != "sqlite" or not engine.url.database:
        return
    left = func.coalesce(func.sum(jobs.c.total - jobs.c.classified - jobs.c.failed), 0)
    running = jobs.c.state == "running"
    images = int(connection.execute(select(left).where(running)).scalar_one())
    needed = LEAST_BYTES + BYTES_AN_IMAGE * images
    advice = "delete old jobs: `resnextq purge --older 90d`"
    folder = Path(engine.url.database).parent
    yield _space("database", folder, needed, advice, f" for {images:,} waiting images")


def check_descriptors() -> Check:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= ENOUGH_DESCRIPTORS:
        return Check("descriptors", "ok", f"a process may have {_number(soft)} files open")
    return Check(
        "descriptors",
        "warning",
        f"a process may have {soft:,} files open; it should be {ENOUGH_DESCRIPTORS:,}",
        f"Raise the limit: `ulimit -n {ENOUGH_DESCRIPTORS}` (the hard limit is {_number(hard)}).",
    )


def _number(limit: int) -> str:
    return "any number" if limit == resource.RLIM_INFINITY else f"{limit:,}"


def _space(what: str, folder: Path, needed: int, advice: str, why: str = "") -> Check:
    there = _existing(folder)
    free = shutil.disk_usage(there).free
    found = f"{what}: {_size(free)} free at {there}"
    files = os.statvfs(there)
    if free < LEAST_BYTES or (files.f_files and not files.f_favail):
        found += "" if free < LEAST_BYTES else ", and no file can be created (no inodes left)"
        return Check("space", "failure", found, f"Free some space there, or {advice}.")
    if free < needed:
        found += f", but {_size(needed)} are needed{why}"
        return Check("space", "warning", found, f"Free some space there, or {advice}.")
    return Check("space", "ok", found)


def _existing(folder: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def _size(number: int) -> str:
    units = ("MB", "GB", "TB", "PB", "EB")
    size = number / 1e6
    for unit in units:
        if size < 1_000 or unit == units[-1]:  # noqa: PLR2004  (until the next unit tells more)
            return f"{size:,.0f} {unit}"
        size /= 1_000
    raise AssertionError("the last unit takes every number")
