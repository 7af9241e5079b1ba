"""Log files that `up` gives to its processes: their size is limited, and no line is lost early."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from contract.log_file import FILE, turn_if_full
from worker.embedded.children import start_child

ROOT = Path(__file__).parents[3]
MOST_BYTES = 20_000
LINE_BYTES = 200
# Writes numbered lines with its own name, some by logging and some directly.
PROCESS = """
import logging, os, sys
from types import SimpleNamespace
from contract.log import log_as_set
who, lines, most, kept = sys.argv[1], *map(int, sys.argv[2:])
log_as_set(SimpleNamespace(
    log_level="INFO", log_format="text", log_file_bytes=most, log_files=kept))
sys.stdin.readline()
for number in range(lines):
    logging.info("%s %d %s", who, number, "x" * 100)
    if number % 10 == 0:
        os.write(2, f"{who} beside {number}\\n".encode())
"""


def writing(path: Path, who: str, lines: int, kept: int) -> subprocess.Popen[bytes]:
    """Starts a process that begins to write once a line arrives on its standard input."""
    with path.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-c", PROCESS, who, str(lines), str(MOST_BYTES), str(kept)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=os.environ | {FILE: str(path), "PYTHONPATH": str(ROOT)},
        )


def run(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.stdin.write(b"\n")
        process.stdin.flush()
    for process in processes:
        process.stdin.close()
        assert process.wait(60) == 0


def files(path: Path) -> list[Path]:
    """Returns the files, oldest first."""
    older = sorted(path.parent.glob(f"{path.name}.*"), key=lambda one: -int(one.suffix[1:]))
    return [*older, path]


def numbers(path: Path, who: str) -> list[int]:
    lines = [line for file in files(path) for line in file.read_text().splitlines()]
    return [int(line.split()[5]) for line in lines if f"root: {who} " in line]


def test_processes_that_share_a_file_lose_no_line_when_it_is_rotated(tmp_path: Path) -> None:
    path = tmp_path / "worker.log"
    run([writing(path, who, 500, kept=50) for who in ("one", "two")])
    assert len(files(path)) > 5
    for who in ("one", "two"):
        assert sorted(numbers(path, who)) == list(range(500))
        said = "".join(file.read_text() for file in files(path))
        assert said.count(f"{who} beside") == 50
    assert all(file.stat().st_size <= MOST_BYTES + 2 * LINE_BYTES for file in files(path))
    assert all(file.stat().st_size >= MOST_BYTES for file in files(path)[:-1])


def test_the_newest_lines_are_kept_in_the_set_number_of_files(tmp_path: Path) -> None:
    path = tmp_path / "worker.log"
    run([writing(path, "one", 1000, kept=2)])
    assert [file.name for file in files(path)] == ["worker.log.2", "worker.log.1", "worker.log"]
    kept = numbers(path, "one")
    assert kept == list(range(kept[0], 1000))
    assert sum(file.stat().st_size for file in files(path)) < 3 * (MOST_BYTES + 2 * LINE_BYTES)


def test_no_old_file_is_kept_if_none_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "worker.log"
    run([writing(path, "one", 500, kept=0)])
    assert files(path) == [path]
    assert numbers(path, "one")[-1] == 499


def test_after_a_file_is_moved_away_a_new_one_begins(tmp_path: Path) -> None:
    path = tmp_path / "worker.log"
    process = writing(path, "one", 10, kept=1)
    path.rename(tmp_path / "moved")
    run([process])
    assert numbers(path, "one") == list(range(10))


def test_a_process_goes_on_when_its_log_folder_is_moved_away(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    process = writing(folder / "worker.log", "one", 500, kept=1)
    folder.rename(tmp_path / "moved")
    run([process])
    assert numbers(tmp_path / "moved" / "worker.log", "one") == list(range(500))


def test_a_process_of_up_is_told_its_log_file(tmp_path: Path) -> None:
    path = tmp_path / "worker.log"
    program = f"import os; print(os.environ[{FILE!r}], flush=True)"
    child = start_child([sys.executable, "-c", program], log=path)
    assert child.wait(60) == 0
    assert path.read_text() == f"{path}\n"


@pytest.mark.parametrize("size", [0, 99])
def test_a_file_with_room_left_is_not_rotated(tmp_path: Path, size: int) -> None:
    path = tmp_path / "valkey.log"
    turn_if_full(path, most_bytes=100, kept=1)
    path.write_bytes(b"x" * size)
    turn_if_full(path, most_bytes=100, kept=1)
    assert files(path) == [path]
