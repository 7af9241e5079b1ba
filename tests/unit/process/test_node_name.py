"""A worker's name in the dashboard: host and device; a dead worker's name is used again."""

from __future__ import annotations

import socket
import subprocess
import sys
import uuid

from worker.process.node_name import NodeName

HOLD = """
import sys
from worker.process.node_name import NodeName
print(NodeName(sys.argv[1]), flush=True)
sys.stdin.read()
"""


def device() -> str:
    """Returns a device that no worker on this machine has."""
    return f"cuda:{uuid.uuid4().hex}"


def test_workers_on_one_device_are_numbered() -> None:
    gpu = device()
    name = f"resnextq@{socket.gethostname()}-{gpu.replace(':', '')}"
    first, second = NodeName(gpu), NodeName(gpu)
    assert (str(first), str(second)) == (name, f"{name}-2")
    first.close()
    third = NodeName(gpu)
    assert str(third) == name
    second.close()
    third.close()


def test_the_name_of_a_killed_worker_is_free_again() -> None:
    gpu = device()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, gpu], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        name = process.stdout.readline().strip()
        process.kill()
    again = NodeName(gpu)
    assert str(again) == name
    again.close()


def test_two_names_too_long_for_a_socket_still_differ() -> None:
    gpu = device() * 5
    first, second = NodeName(gpu), NodeName(gpu)
    assert str(second) == f"{first}-2"
    first.close()
    second.close()
