"""One package owns a chunk's life: no other writes its tables, and the docs list its moves."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from contract.chunks.state import HEADING, MOVES, ChunkState

ROOT = Path(__file__).parents[3]
OWNED = ("chunks", "results", "tallies", "class_counts")
WRITERS = ("insert", "update", "delete")
IN_SQL = re.compile(
    rf"\b(INSERT INTO|UPDATE|DELETE FROM|TRUNCATE|COPY)\s+\"?({'|'.join(OWNED)})\b", re.IGNORECASE
)
MODULES = [
    path
    for package in ("contract", "producer", "worker", "resnext")
    for path in sorted((ROOT / package).rglob("*.py"))
    if path.parent != ROOT / "contract" / "chunks"
]


def writes_in(source: str) -> list[str]:
    """Returns each statement that writes one of the owned tables."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Name(id=verb), args=[ast.Name(id=table), *_]):
                found += [f"{verb}({table})"] if verb in WRITERS and table in OWNED else []
            case ast.Call(func=ast.Attribute(value=ast.Name(id=table), attr=verb)):
                found += [f"{table}.{verb}()"] if verb in WRITERS and table in OWNED else []
            case ast.Constant(value=str(text)) if IN_SQL.search(text):
                found.append(text)
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_owner_writes_chunks_results_or_tallies(path) -> None:
    assert writes_in(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "update(chunks).where(x)",
        "c.execute(insert(tallies))",
        "delete(results)",
        "chunks.update().values(a=1)",
        "run('INSERT INTO results (a) VALUES (1)')",
        'run("update chunks set a = 1")',
    ],
)
def test_every_way_of_writing_the_tables_is_found(source) -> None:
    assert len(writes_in(source)) == 1


def test_the_docs_show_the_table_of_moves() -> None:
    table = "\n".join([HEADING, *(move.row for move in MOVES)])
    assert table in (ROOT / "docs" / "chunk-life.md").read_text(), (
        f"docs/chunk-life.md lacks:\n{table}"
    )


def test_every_state_is_reached_and_left() -> None:
    assert {state for move in MOVES for state in move.after} == set(ChunkState)
    assert {state for move in MOVES for state in move.before} == set(ChunkState)
