"""What the program's modules import, read from their source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("contract", "migrations", "producer", "resnext", "worker")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
}


def is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def names_in(tree: ast.AST, module: str) -> Iterator[str]:
    """Yields every module that is imported below this node, or named there in a text."""
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


def imports_of(module: str) -> set[str]:
    """Returns our modules that this one names: at the top, in functions, for the type checker."""
    named = names_in(ast.parse(MODULES[module].read_text()), module)
    return {name for name in named if name in MODULES and name != module}
