"""`resnextq classify` on a device that hangs: it ends by itself and keeps its results.

The command, its loaders and the network are real. Only the hanging device is simulated.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.errors import UnavailableError
from resnext.run.watchdog import Busy

ROOT = Path(__file__).parents[3]
PICTURES = ROOT / "demo" / "pictures"
WITHIN_S = 100
HUNG_AFTER_S = 5.0
# A device that classifies the first batch and hangs on the second one.
PROGRAM = """
import sys, threading
from producer.cli.main import main
from worker.commands import classify

load = classify.load_classifier

def load_hanging(*arguments, **options):
    classifier = load(*arguments, **options)
    classifier.device = "cuda:0"
    classify_ = classifier.classify

    def hang(pixels):
        classifier.classify = lambda _: threading.Event().wait()
        return classify_(pixels)

    classifier.classify = hang
    return classifier

classify.load_classifier = load_hanging
classify.HUNG_AFTER_S = float(sys.argv.pop(1))
main()
"""


@pytest.fixture
def command() -> Iterator[subprocess.Popen[str]]:
    """The running command, which reads URIs from standard input."""
    process = subprocess.Popen(
        [
            sys.executable, "-c", PROGRAM, str(HUNG_AFTER_S), "classify", "--json",
            "--model", "resnext_tiny_imagenet", "--batch", "1", "-",
        ],
        env=os.environ | {
            "PYTHONPATH": str(ROOT), "RESNEXT_LOADERS": "1", "RESNEXT_FILE_ROOTS": str(PICTURES),
        },
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    with process:
        yield process
        process.kill()


def give(command: subprocess.Popen[str], name: str) -> None:
    command.stdin.write(f"{(PICTURES / name).as_uri()}\n")
    command.stdin.flush()


def test_a_hanging_device_ends_the_command_after_the_finished_lines(command) -> None:
    give(command, "coffee.jpg")
    assert json.loads(command.stdout.readline())["status"] == "classified"
    give(command, "goldfish.jpg")
    assert command.wait(WITHIN_S) == UnavailableError.exit_code
    assert "The device hangs: it has been computing one batch for" in command.stderr.read()


def test_waiting_for_images_does_not_count_as_hanging() -> None:
    busy = Busy()
    assert busy.seconds() == 0.0
    with busy:
        while busy.seconds() == 0.0:
            pass
    assert busy.seconds() == 0.0
