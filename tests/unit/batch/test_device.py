"""Workers of one machine share its GPUs out among themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from worker.batch.device import choose_device

HOLD = """
import sys
from pathlib import Path
from worker.batch.device import hold_first_free
print(hold_first_free(["GPU-a", "GPU-b"], Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


def start(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """A worker's process, and the GPU that it has got."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return process, process.stdout.readline().strip()


def test_each_worker_gets_a_gpu_of_its_own_until_one_ends(tmp_path) -> None:
    first, got_first = start(tmp_path)
    second, got_second = start(tmp_path)
    third, got_third = start(tmp_path)
    assert (got_first, got_second, got_third) == ("0", "1", "0")
    assert "Each of 2 GPUs has a worker already" in third.communicate()[1]
    second.kill()
    second.communicate()
    fourth, got_fourth = start(tmp_path)
    assert got_fourth == "1"
    for process in (first, fourth):
        process.communicate()


def test_a_device_that_is_named_is_taken(tmp_path) -> None:
    assert choose_device("cuda:3", tmp_path) == "cuda:3"
    assert list(tmp_path.iterdir()) == []
