"""What may import what: producer → contract ← worker → resnext, and migrations → contract.

Every module is parsed. Imports at its top, imports inside functions, and texts with the name of one
of our modules count, since `import_module` and Celery take such texts.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest

from tests.imports import MODULES, PACKAGES, ROOT, is_in, names_in

# What a module may name besides its own package. The longest matching prefix counts.
ARROWS = {
    "contract": (),
    "resnext": (),
    "producer": ("contract",),
    "worker": ("contract", "resnext"),
    "worker.embedded": ("contract", "resnext", "migrations.upgrade"),
    # Runs the command line as a program if there is no `resnextq` beside the interpreter.
    "worker.embedded.service": ("contract", "resnext", "producer.cli"),
    "migrations": ("contract.database.tables",),
    "migrations.upgrade": ("contract.database.engine",),
    "migrations.versions": (),
}
# The one exception: the two sides meet in the command line. Only the command that runs a module of
# the worker's side names it, in a text for `import_module`.
COMMAND_LINE = sorted(
    name
    for name in MODULES
    if is_in(name, "producer.cli") and not is_in(name, "producer.cli.render")
)
OTHER_SIDE_OF = {
    "up": "worker.",
    "worker": "worker.",
    "classify": "worker.",
    "doctor": "worker.",
    "flower": "worker.",
    "export": "worker.",
    "upgrade": "migrations.upgrade",
}
# The model is a separate library: it knows no queue, no SQL and no settings.
FOREIGN_TO_RESNEXT = {
    "alembic", "celery", "kombu", "psycopg", "pydantic", "pydantic_settings", "redis",
    "sqlalchemy", "typer",
}  # fmt: skip


def rule_of(module: str) -> tuple[str, ...]:
    return ARROWS[max((rule for rule in ARROWS if is_in(module, rule)), key=len)]


@pytest.mark.parametrize("module", sorted(set(MODULES) - set(COMMAND_LINE)))
def test_imports_follow_the_arrows(module) -> None:
    own = module.split(".", maxsplit=1)[0]
    named = set(names_in(ast.parse(MODULES[module].read_text()), module))
    ours = {name for name in named if name.split(".")[0] in PACKAGES}
    allowed = (own, *rule_of(module)) if module[:19] != "migrations.versions" else ()
    wrong = {name for name in ours if not any(is_in(name, package) for package in allowed)}
    assert wrong == set()


@pytest.mark.parametrize("module", COMMAND_LINE)
def test_the_command_line_names_the_other_side_only_in_its_commands(module) -> None:
    for statement in ast.parse(MODULES[module].read_text()).body:
        name = getattr(statement, "name", "")
        for named in names_in(statement, module):
            if named.split(".")[0] in PACKAGES and not is_in(named, "producer"):
                other_side = OTHER_SIDE_OF.get(name, "contract")
                assert named.startswith((other_side, "contract")), f"{name} names {named}"


def test_the_command_line_names_modules_that_exist() -> None:
    """Otherwise a wrong name would show only when a user runs the command."""
    trees = [ast.parse(MODULES[module].read_text()) for module in COMMAND_LINE]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    texts = {node.value for node in nodes if isinstance(node.value, str)}
    named = {text for text in texts if re.fullmatch(r"(worker|migrations)(\.\w+)+", text)}
    assert len(named) == len(OTHER_SIDE_OF)  # one module per command
    assert named <= set(MODULES)


@pytest.mark.parametrize("module", sorted(name for name in MODULES if is_in(name, "resnext")))
def test_the_model_knows_no_queue_and_no_database(module) -> None:
    named = names_in(ast.parse(MODULES[module].read_text()), module)
    assert {name.split(".")[0] for name in named} & FOREIGN_TO_RESNEXT == set()


def loaded_by(*modules: str) -> set[str]:
    """Returns the top-level modules in a new process after these imports."""
    program = "import sys\n" + "".join(f"import {module}\n" for module in modules)
    program += "print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


HEAVY = {"torch", "torchvision", "numpy", "PIL"}


def test_importing_every_producer_module_loads_neither_torch_nor_the_other_side() -> None:
    modules = sorted(name for name in MODULES if is_in(name, "producer"))
    assert loaded_by(*modules) & (HEAVY | {"worker", "resnext", "migrations"}) == set()


def test_importing_the_contract_loads_nothing_of_either_side() -> None:
    modules = sorted(name for name in MODULES if is_in(name, "contract"))
    assert loaded_by(*modules) & (HEAVY | {"producer", "worker", "resnext", "typer"}) == set()


def test_importing_the_command_line_loads_no_database_and_no_queue() -> None:
    """`--help` must be quick, so a command imports what it needs only when it runs."""
    heavy = HEAVY | {"sqlalchemy", "celery", "kombu", "pydantic", "alembic"}
    assert loaded_by("producer.cli.main") & heavy == set()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("import torch.nn", {"torch.nn"}),
        ("from contract.database import tables", {"contract.database.tables"}),
        ("from contract.database.tables import jobs", {"contract.database.tables"}),
        ("from ... import resnext", {""}),
        ("from .tables import jobs", {"worker.chunk.tables"}),
        ("def f():\n    from resnext.spec import model", {"resnext.spec.model"}),
        ("import_module('migrations.upgrade')", {"migrations.upgrade"}),
        ("print('contract and words')", set()),
    ],
)
def test_every_way_of_naming_a_module_is_found(text, named) -> None:
    assert set(names_in(ast.parse(text), "worker.chunk.task")) == named
