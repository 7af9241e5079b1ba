"""`resnextq doctor` without the model: settings, home, servers, permissions.

It yields one `Check` per line, with advice on what to do. `worker.commands.doctor` checks the model
where torch is installed. The checks change nothing, and one that hangs is given up.
"""

from __future__ import annotations

import ipaddress
import os
import platform
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr
from redis.exceptions import ResponseError
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text
from sqlalchemy import Connection, Engine, func, select

from contract import VERSION
from contract.broker.connection import (
    CONNECT_TIMEOUT_S,
    address_of,
    check_broker,
    make_celery,
    queue_of,
    redis_of,
)
from contract.broker.tls import tls_of, why_unverified
from contract.check import Check, guarded
from contract.chunks.faults import faults_of_running_jobs
from contract.database.address import database_address
from contract.database.clock import db_now
from contract.database.engine import connect_database, reaching_database, reading
from contract.database.schema import NEWEST_SCHEMA, OLDEST_SCHEMA, revision_of
from contract.database.tables import chunks, jobs, leaders, workers
from contract.fetch_allow import Opening
from contract.log import in_lines, in_one_line
from contract.served import with_served
from contract.settings import PREFIX, Settings, unknown_variables
from producer.checks.fleet import check_fleet
from producer.checks.listening import check_api, check_open
from producer.checks.room import check_database_space, check_descriptors, check_space
from producer.dispatcher.leader import ROLE, dead_after_s
from producer.jobs.job import live_workers
from producer.jobs.served import no_worker, start_one

STYLES: Final = {"ok": "green", "warning": "yellow", "failure": "bold red"}
# Addresses where clouds hand out credentials to every process inside: AWS and most others, AWS over
# IPv6, Azure, Oracle, Alibaba.
METADATA: Final = tuple(
    ipaddress.ip_address(address)
    for address in (
        "169.254.169.254", "fd00:ec2::254", "168.63.129.16", "192.0.0.192", "100.100.100.200",
    )
)  # fmt: skip
# Names of some of these services: Google's and AWS's.
METADATA_NAMES: Final = (
    "metadata.google.internal", "metadata.goog", "instance-data.ec2.internal",
)  # fmt: skip


def check_servers(settings: Settings) -> Iterator[Check]:
    """Yields each check as soon as its result is known."""
    yield Check("version", "ok", f"resnextq {VERSION}, Python {platform.python_version()}")
    yield from _settings(settings)
    served = with_served(settings)
    if served != settings:
        found = f"`resnextq up` serves {served.model} here; its model, files and ports are checked"
        yield Check("up", "ok", found)
    settings = served
    yield from guarded("home", lambda: _home(settings))
    yield from guarded("space", lambda: check_space(settings))
    yield check_descriptors()
    yield from guarded("broker", lambda: _broker(settings))
    yield from guarded("database", lambda: _database(settings))
    yield from guarded("api", lambda: check_api(settings))
    yield from guarded("open addresses", lambda: check_open(settings))
    yield _private_addresses(settings)
    yield _ports(settings)
    yield from guarded("file folders", lambda: _file_folders(settings))


def without_torch() -> Check:
    found = (
        "not checked: torch is not installed here; submitting and reading results do not need it"
    )
    advice = "To classify on this machine: pip install '.[worker]' in the project's folder"
    return Check("model", "ok", found, advice)


def as_json(check: Check) -> dict[str, str]:
    """The object that `--json` prints."""
    return {
        "check": check.name,
        "state": check.state,
        "found": check.found,
        "advice": check.advice,
    }


def render(check: Check) -> RenderableType:
    """The check for a terminal. Long text continues on the next line."""
    row = Table.grid(padding=(0, 2, 0, 0))
    row.add_column(width=7, no_wrap=True)
    row.add_column(width=17)
    row.add_column(overflow="fold")
    found = Text(in_lines(check.found))
    if check.advice:
        found.append(f"\n→ {in_lines(check.advice)}", STYLES[check.state])
    row.add_row(Text(check.state, STYLES[check.state]), Text(check.name), found)
    return row


def line(check: Check) -> str:
    """The check on one line."""
    advice = f" → {check.advice}" if check.advice else ""
    return f"{check.state}\t{check.name}\t{in_one_line(f'{check.found}{advice}')}"


def _settings(settings: Settings) -> Iterator[Check]:
    changed = [f"{PREFIX}{name.upper()}={value}" for name, value in _changed(settings)]
    yield Check("settings", "ok", ", ".join(changed) or "all at their defaults")
    for variable, nearest in unknown_variables():
        found = f"{variable} is set, but there is no such setting"
        yield Check("settings", "warning", found, f"Did you mean {nearest}?")


def _changed(settings: Settings) -> Iterator[tuple[str, str]]:
    """Names and values that differ from the default. The values of secrets are hidden."""
    for name, field in type(settings).model_fields.items():
        value: Any = getattr(settings, name)
        if value == field.get_default(call_default_factory=True, validated_data=vars(settings)):
            continue
        if isinstance(value, SecretStr):
            yield name, "(hidden)"
        else:
            yield name, ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _home(settings: Settings) -> Iterator[Check]:
    home = settings.home
    if not home.exists():
        yield Check("home", "ok", f"{home} does not exist yet; `resnextq up` creates it")
        return
    if not home.is_dir() or not os.access(home, os.W_OK | os.X_OK):
        yield Check(
            "home",
            "warning",
            f"{home} is not a folder that this user can write to",
            f"`resnextq up` needs a home: set {PREFIX}HOME, or change the folder's owner.",
        )
        return
    others = stat.S_IMODE(home.stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO)
    found = f"{home}, {stat.filemode(home.stat().st_mode)}"
    if others:
        advice = f"Other users can read or enter it, and it holds passwords. Run: chmod 700 {home}"
        yield Check("home", "warning", found, advice)
    else:
        yield Check("home", "ok", found)


def _broker(settings: Settings) -> Iterator[Check]:
    app = make_celery(settings)
    patience = {"socket_timeout": CONNECT_TIMEOUT_S}
    app.conf.broker_transport_options = app.conf.broker_transport_options | patience
    try:
        check_broker(app)
        client = redis_of(app)
        info = client.info("server")
        server = f"Valkey {info['valkey_version']}" if "valkey_version" in info else "Redis"
        where = address_of(str(app.conf.broker_url))
        yield Check("broker", "ok", f"{where} answers: {server} ({info['redis_version']})")
        yield from _verification(settings)
        try:
            kept = client.config_get("maxmemory-policy") | client.config_get("appendonly")
        except ResponseError:
            yield Check(
                "broker memory",
                "warning",
                "the server does not report its maxmemory-policy",
                "Make sure that it is noeviction.",
            )
            return
        yield from _keeping({_text(k): _text(v) for k, v in kept.items()})
    finally:
        app.close()


def _verification(settings: Settings) -> Iterator[Check]:
    """Over TLS: whether the client verifies the server's certificate and host name."""
    url = settings.broker()
    option = why_unverified(url)
    if option:
        yield Check(
            "broker TLS",
            "warning",
            f"{option} in {PREFIX}BROKER_URL: any server that answers there gets the password",
            "Remove it. To use your own authority, add ssl_ca_certs=/path/to/authority.pem.",
        )
    elif tls_of(url) is not None:
        yield Check("broker TLS", "ok", "the server's certificate and host name are verified")


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _keeping(kept: dict[str, str]) -> Iterator[Check]:
    """Whether the broker may drop messages, and whether they survive its restart."""
    policy = kept["maxmemory-policy"]
    if policy == "noeviction":
        yield Check("broker memory", "ok", "maxmemory-policy noeviction")
    else:
        yield Check(
            "broker memory",
            "warning",
            f"maxmemory-policy {policy}: when memory runs out, messages are dropped",
            "Set maxmemory-policy noeviction. Dropped messages are published again, but late.",
        )
    found = {
        "yes": "append-only file on: messages survive a restart",
        "no": "append-only file off: after a restart the dispatcher publishes lost messages again",
    }
    yield Check("broker restart", "ok", found.get(kept["appendonly"], kept["appendonly"]))


def _database(settings: Settings) -> Iterator[Check]:
    engine = connect_database(settings)
    try:
        with reaching_database(engine), reading(engine) as connection:
            yield _schema(engine, connection)
            yield from check_database_space(engine, connection)
            yield from _workers(connection, settings)
            yield from check_fleet(connection, settings)
            # No dispatcher has seen a chunk that has been due for longer than this.
            yield _dispatcher(connection, dead_after_s(settings.dispatch_interval_s))
            yield from _faults(connection)
    finally:
        engine.dispose()


def _schema(engine: Engine, connection: Connection) -> Check:
    where = database_address(engine)
    return Check(
        "database",
        "ok",
        f"{where} answers; its schema is {revision_of(connection):04}, and this program works "
        f"with {OLDEST_SCHEMA:04} to {NEWEST_SCHEMA:04}",
    )


def _workers(connection: Connection, settings: Settings) -> Iterator[Check]:
    queue = queue_of(settings.model, settings.weights, settings.precision)
    served = live_workers(connection, settings.lease_s)
    warning = no_worker(queue, served)
    if warning is None:
        yield Check("workers", "ok", f"{served[queue]} on {queue}, the queue of new jobs")
    else:
        found = f"new jobs would be {warning}"
        start = start_one(settings.model, settings.weights, settings.precision)
        advice = f"Start one: {start}"
        yield Check("workers", "warning", found, advice)
    alive = select(workers, db_now().label("now")).where(
        workers.c.heartbeat_at >= db_now(-settings.lease_s)
    )
    for row in connection.execute(alive.order_by(workers.c.name)):
        beat_s = (row.now - row.heartbeat_at).total_seconds()
        yield Check(
            "worker",
            "ok",
            f"{row.name} serves {row.queue} on {row.device} in {row.precision}, "
            f"{'stopping' if row.stopping else f'{row.images_per_s:.1f} images/s'}; "
            f"last heartbeat {beat_s:.0f} s ago",
        )


def _faults(connection: Connection) -> Iterator[Check]:
    """Faults of this program that chunks of running jobs have met."""
    for fault, chunks_met in faults_of_running_jobs(connection).most_common():
        yield Check(
            "fault",
            "warning",
            f"{chunks_met:,} chunks of running jobs met a fault of this program: {fault}",
            "The chunks run again. After the last attempt their images fail as `internal`. The "
            "workers' logs have the full traceback; please report it.",
        )


def _dispatcher(connection: Connection, overdue_s: float) -> Check:
    """The leading dispatcher, and the chunks that it has not published."""
    leader = connection.execute(
        select(leaders.c.holder, leaders.c.held_at, db_now().label("now")).where(
            leaders.c.role == ROLE, leaders.c.held_at > db_now(-overdue_s)
        )
    ).one_or_none()
    overdue, queued = _overdue(connection, overdue_s), _queued(connection)
    waits = f"{overdue:,} chunks are due, but none is queued" if overdue and not queued else ""
    if leader is None:
        found = "none is running" + (f": {waits}" if waits else "")
        return Check("dispatcher", "warning", found, "Start one with `resnextq dispatch`.")
    held_s = (leader.now - leader.held_at).total_seconds()
    found = f"{leader.holder} leads, seen {held_s:.0f} s ago; "
    if waits:
        return Check("dispatcher", "warning", found + waits, "Its log says why.")
    found += (
        f"{queued:,} chunks are queued, {overdue:,} are waiting"
        if overdue
        else "no chunk is waiting"
    )
    return Check("dispatcher", "ok", found)


def _overdue(connection: Connection, overdue_s: float) -> int:
    """Number of chunks that have been due for longer than a dispatcher takes to see them."""
    return connection.execute(
        select(func.count())
        .select_from(chunks.join(jobs, jobs.c.number == chunks.c.job_number))
        .where(
            jobs.c.state == "running",
            chunks.c.state == "pending",
            chunks.c.due_at < db_now(-overdue_s),
        )
    ).scalar_one()


def _queued(connection: Connection) -> int:
    return connection.execute(
        select(func.count()).select_from(chunks).where(chunks.c.state == "queued")
    ).scalar_one()


def _private_addresses(settings: Settings) -> Check:
    opened = settings.fetch_allow
    if not opened:
        found = f"no image is fetched from private addresses; {PREFIX}FETCH_ALLOW opens your own"
        return Check("private addresses", "ok", found)
    found = f"{PREFIX}FETCH_ALLOW opens {', '.join(opened)}"
    openings = [Opening.read(entry) for entry in opened]
    networks = [opening.network for opening in openings if opening.network is not None]
    metadata = [
        *(address for address in METADATA if any(address in network for network in networks)),
        *(name for name in METADATA_NAMES if any(opening.is_of(name) for opening in openings)),
    ]
    if metadata:
        named = ", ".join(map(str, metadata))
        advice = f"This opens {named}, where clouds hand out credentials. Open less."
        return Check("private addresses", "warning", found, advice)
    ports = settings.fetch_ports
    closed = [
        entry
        for entry, opening in zip(opened, openings, strict=True)
        if ports and opening.port is not None and opening.port not in ports
    ]
    if closed:
        found += f"; {PREFIX}FETCH_PORTS keeps {', '.join(closed)} closed"
        advice = f"Add the port to {PREFIX}FETCH_PORTS, or remove the entry."
        return Check("private addresses", "warning", found, advice)
    return Check("private addresses", "ok", found)


def _ports(settings: Settings) -> Check:
    if not settings.fetch_ports:
        found = f"images are fetched from every port; {PREFIX}FETCH_PORTS limits the ports"
        return Check("ports", "ok", found)
    return Check(
        "ports", "ok", f"images are fetched from: {', '.join(map(str, settings.fetch_ports))}"
    )


def _file_folders(settings: Settings) -> Iterator[Check]:
    if not settings.file_roots:
        found = (
            f"workers may read no files; {PREFIX}FILE_ROOTS lists the folders that they may read"
        )
        yield Check("file folders", "ok", found)
    for root in settings.file_roots:
        if not root.is_dir():
            advice = "Workers and the machines that submit must see the same paths."
            yield Check("file folders", "warning", f"{root} is not a folder here", advice)
        elif root.resolve() == Path("/"):
            advice = (
                f"Every file of this machine is open. Name fewer folders in {PREFIX}FILE_ROOTS."
            )
            yield Check("file folders", "warning", "/", advice)
        else:
            yield Check("file folders", "ok", str(root))
