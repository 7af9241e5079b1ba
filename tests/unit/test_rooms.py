"""Which room of a package may import which, and that no file imports itself through others."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.imports import MODULES, ROOT, imports_of, is_in

# A room, or a file that others may use without the rest of its room, and what it may import from
# its own package. Files of a room may import each other.
ROOMS = {
    # The way of an image, from a submitted URI to its rows.
    "producer.cli": (
        "producer.submit", "producer.dispatcher", "producer.jobs", "producer.doctor",
        "producer.api", "producer.pages", "producer.removal",
    ),
    "producer.api": ("producer.submit", "producer.jobs"),
    "producer.api.server": ("producer.api", "producer.pages", "producer.submit"),
    # Pages serve people as the API serves programs. The API's endpoints do not know them.
    "producer.pages": ("producer.api", "producer.jobs", "producer.submit"),
    "producer.api.keys": (),
    "producer.submit": ("producer.notify.outbox", "producer.removal"),
    # Drafts left by killed submits, deletions, and notices of a job's end.
    "producer.dispatcher": ("producer.submit.draft", "producer.removal", "producer.notify"),
    "producer.removal": (),
    # SQL and Redis are in between; here a worker takes the message.
    "worker.main": (
        "worker.process", "worker.chunk", "worker.batch", "worker.pool", "worker.metrics",
        "worker.loader.sandbox", "worker.thumbnail",
    ),
    "worker.process": ("worker.loader.sandbox.prctl",),
    "worker.chunk": (  # claim, then wait in a task, then store
        "worker.pool", "worker.batch", "worker.metrics", "worker.process.identity",
    ),
    "worker.pool": ("worker.loader", "worker.chunk.outcome"),
    "worker.loader": (  # its own process: fetch, decode
        "worker.pool.wire", "worker.pool.slots", "worker.chunk.outcome",
    ),
    "worker.batch": (  # classify
        "worker.pool.pool", "worker.chunk.run", "worker.chunk.outcome", "worker.metrics",
    ),
    "worker.thumbnail": (  # what the batcher shows, and what runs have stored
        "worker.batch.batch", "worker.chunk.claim", "worker.chunk.run",
    ),
    "producer.jobs": (
        "producer.submit.draft", "producer.submit.digest", "producer.submit.options",
        "producer.notify.outbox", "producer.removal",
    ),
    # Reads again what was submitted.
    "producer.jobs.export.input": (
        "producer.jobs.job", "producer.jobs.export", "producer.submit.sources",
        "producer.submit.intake", "producer.submit.check", "producer.submit.groups",
        "producer.submit.digest",
    ),
    # Files shared by rooms on both sides.
    "worker.process.supervisor": (
        "worker.main", "worker.process.identity", "worker.process.stop_signal",
        "worker.process.cause", "worker.process.native_output", "worker.loader.sandbox.prctl",
    ),
    "worker.process.native_output": (),
    "worker.process.identity": (),
    "worker.chunk.outcome": (),
    "worker.chunk.run": ("worker.chunk.claim", "worker.chunk.outcome"),
    "worker.pool.wire": ("worker.chunk.outcome",),
    "worker.pool.slots": (),
    # Observers, and commands other than the worker.
    "producer.doctor": ("producer.jobs", "producer.dispatcher.leader", "producer.checks"),
    "producer.checks": ("producer.jobs",),
    "worker.metrics": ("worker.chunk", "worker.process.identity"),
    "worker.health": (),
    "worker.commands": (
        "worker.batch", "worker.pool", "worker.loader", "worker.chunk.outcome",
        "worker.chunk.retry_wait",
    ),
    "worker.commands.flower": ("worker.dashboard",),
    "worker.dashboard": (),
    "worker.embedded": (
        "worker.commands.flower", "worker.health", "worker.loader.sandbox.prctl",
    ),
    # The model, from modules without imports up to what callers load.
    "resnext.errors": (),
    "resnext.picture": (),
    "resnext.spec": ("resnext.picture", "resnext.errors", "resnext.bundled"),  # names its file
    "resnext.network": ("resnext.spec",),
    "resnext.weights": ("resnext.network", "resnext.spec", "resnext.picture", "resnext.errors"),
    "resnext.load": ("resnext.weights", "resnext.network", "resnext.spec", "resnext.errors"),
    "resnext.run": (
        "resnext.network", "resnext.picture", "resnext.errors", "resnext.weights.own_file",
    ),
    "resnext.classifier": ("resnext",),
    "resnext.export": ("resnext",),
    "resnext.bundled": ("resnext",),
    # Shared by both sides.
    "contract.errors": (),
    "contract.models": ("contract.errors",),
    "contract.fetch_allow": (),
    "contract.addresses": ("contract.fetch_allow",),
    "producer.notify": (),
    "producer.notify.outbox": (),
    "contract.settings": (
        "contract.errors", "contract.models", "contract.cores", "contract.fetch_allow",
        "contract.objects",
    ),
    "contract.served": ("contract.settings", "contract.secret_file"),
    "contract.objects": ("contract.errors", "contract.failure"),
    "contract.broker": (
        "contract.settings", "contract.models", "contract.errors", "contract.uris",
        "contract.chunks.fence",
    ),
    "contract.chunks": (
        "contract.database", "contract.failure", "contract.remaining", "contract.stages",
    ),
    "contract.database": ("contract.settings", "contract.errors"),
    "contract.metrics": ("contract.settings", "contract.errors"),
}  # fmt: skip


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def row_of(module: str) -> str | None:
    return max((row for row in ROOMS if is_in(module, row)), key=len, default=None)


@pytest.mark.parametrize("module", sorted(name for name in MODULES if "." in name))
def test_rooms_import_only_what_their_row_permits(module) -> None:
    row = row_of(module)
    if row is None:
        assert not is_in(module, "worker"), f"{module} is in no room: give it a row"
        return
    own = row if row in MODULES and MODULES[row].name != "__init__.py" else room_of(module)
    package = module.split(".", maxsplit=1)[0]
    allowed = (own, *ROOMS[row])
    named = {name for name in imports_of(module) if is_in(name, package) and name != package}
    assert {name for name in named if not any(is_in(name, room) for room in allowed)} == set()


@pytest.mark.parametrize("row", ROOMS)
def test_rows_name_modules_that_exist(row) -> None:
    assert {row, *ROOMS[row]} <= set(MODULES)


def test_no_file_imports_itself_through_others() -> None:
    graph = {name: set(imports_of(name)) for name in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(reversed(error.args[1])))


def test_a_loader_loads_neither_torch_nor_clients_of_the_servers() -> None:
    """An attacker may take over a loader, and dozens of loaders would each pay for the memory."""
    program = "import sys, worker.loader.program; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded & {"torch", "celery", "kombu", "redis", "sqlalchemy", "psycopg"} == set()


TESTS = sorted((ROOT / "tests").rglob("*.py"))


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_test_imports_another(path) -> None:
    """Code that two tests share belongs in a module with a name of its own."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    whole = {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
    parts = {
        f"{node.module}.{alias.name}"
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    ours = [name.split(".") for name in whole | parts if is_in(name, "tests")]
    tests = {part for name in ours for part in name[1:] if part.startswith(("test_", "conftest"))}
    assert tests == set()
