"""What may import what: producer → contract ← worker → resnext, and migrations → contract.

Every module is parsed: imports at its top, imports inside functions, and texts that are the
name of one of our modules, since `import_module` and Celery take such texts.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("contract", "migrations", "producer", "resnext", "worker")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
}

# What a module may name besides its own package, by the longest beginning of its name.
ARROWS = {
    "contract": (),
    "resnext": (),
    "producer": ("contract",),
    "worker": ("contract", "resnext"),
    "worker.embedded": ("contract", "resnext", "migrations.upgrade"),
    "migrations": ("contract.database.tables",),
    "migrations.versions": (),
    # The one exception: the command line is where the two sides meet. It names a worker's
    # module in a text, for `import_module`, in the command that runs it and nowhere else.
    "producer.cli.main": ("contract",),
}
COMMAND_LINE = {
    "up": "worker.",
    "worker": "worker.",
    "classify": "worker.",
    "doctor": "worker.",
    "flower": "worker.",
    "export": "worker.",
    "upgrade": "migrations.upgrade",
}
# The model is a library of its own: it knows no queue, no SQL and no settings.
FOREIGN_TO_RESNEXT = {
    "alembic", "celery", "kombu", "psycopg", "pydantic", "pydantic_settings", "redis",
    "sqlalchemy", "typer",
}  # fmt: skip


def names_in(tree: ast.AST, module: str) -> Iterator[str]:
    """Every module that is imported or named in a text below this node."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names)
            case ast.ImportFrom(module=origin, names=names, level=level):
                above = module.split(".")[:-level] if level else []
                origin = ".".join([*above, *([origin] if origin else [])])
                for name in names:
                    whole = f"{origin}.{name.name}"
                    yield whole if whole in MODULES else origin
            case ast.Constant(value=str(text)) if text in MODULES and "." in text:
                yield text


def is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def rule_of(module: str) -> tuple[str, ...]:
    return ARROWS[max((rule for rule in ARROWS if is_in(module, rule)), key=len)]


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"producer.cli.main"}))
def test_imports_follow_the_arrows(module) -> None:
    own = module.split(".", maxsplit=1)[0]
    named = set(names_in(ast.parse(MODULES[module].read_text()), module))
    ours = {name for name in named if name.split(".")[0] in PACKAGES}
    allowed = (own, *rule_of(module)) if module[:19] != "migrations.versions" else ()
    wrong = {name for name in ours if not any(is_in(name, package) for package in allowed)}
    assert wrong == set()


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Imports inside functions count as well: they hide a circle and do not open it."""
    named = {
        module: set(names_in(ast.parse(path.read_text()), module)) & set(MODULES) - {module}
        for module, path in MODULES.items()
    }

    def reached(module: str) -> set[str]:
        found, ahead = set[str](), [module]
        while ahead:
            new = named[ahead.pop()] - found
            found |= new
            ahead += new
        return found

    assert [module for module in sorted(MODULES) if module in reached(module)] == []


def test_the_command_line_names_the_other_side_in_its_own_commands_alone() -> None:
    tree = ast.parse(MODULES["producer.cli.main"].read_text())
    for statement in tree.body:
        name = getattr(statement, "name", "")
        for named in names_in(statement, "producer.cli.main"):
            if named.split(".")[0] in PACKAGES and not is_in(named, "producer"):
                other_side = COMMAND_LINE.get(name, "contract")
                assert named.startswith((other_side, "contract")), f"{name} names {named}"


def test_the_command_line_names_modules_that_exist() -> None:
    """A text is not checked by anything else until somebody runs the command."""
    tree = ast.parse(MODULES["producer.cli.main"].read_text())
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    named = {text for text in texts if isinstance(text, str) and text.startswith("worker.")}
    assert named
    assert named <= set(MODULES)


@pytest.mark.parametrize("module", sorted(name for name in MODULES if is_in(name, "resnext")))
def test_the_model_knows_no_queue_and_no_database(module) -> None:
    named = names_in(ast.parse(MODULES[module].read_text()), module)
    assert {name.split(".")[0] for name in named} & FOREIGN_TO_RESNEXT == set()


def loaded_by(*modules: str) -> set[str]:
    """The top-level modules in a new process that imports these."""
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
    """`--help` shall be quick: a command imports what it needs when it runs."""
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
def test_every_way_of_naming_a_module_is_seen(text, named) -> None:
    assert set(names_in(ast.parse(text), "worker.chunk.task")) == named
