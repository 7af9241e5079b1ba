"""A picture for which its loader has no memory: a small one is retried, a large one fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.dispatching import WITHIN_S
from tests.pictures.hostile import make_png

# A separate process with little free address space, as if other bodies had used up the rest.
PROGRAM = """
import resource, socket, sys
from pathlib import Path
from contract.settings import Settings
from resnext.spec.catalogue import find_spec
from worker.loader.fetch.fetcher import Fetched
from worker.loader.config import LoaderConfig
from worker.loader.program import Loader, Stopwatch
from worker.pool.slots import Slots

body = Path(sys.argv[1]).read_bytes()
preprocessing = find_spec("resnext_tiny_imagenet").preprocessing
config = LoaderConfig.of(Settings(fetches_per_loader=1), preprocessing)
slots = Slots(Slots.make(count=1, crop=preprocessing.crop), count=1, crop=preprocessing.crop)
loader = Loader(socket.socket(), slots, config)
used_pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = used_pages * resource.getpagesize() + 8 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
done = loader._decode(0, Fetched(body), Stopwatch())
print(done.failure.code, done.provenance.width)
"""


@pytest.mark.parametrize(
    ("side", "code"), [(6000, "timeout"), (8000, "too_many_pixels")], ids=["small", "large"]
)
def test_without_memory_a_small_picture_is_retried_and_a_large_one_fails(
    tmp_path: Path, side: int, code: str
) -> None:
    picture = make_png(tmp_path / "a.png", side, side)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, picture],
        # Keep the C library from reserving memory for each thread.
        env=os.environ | {"MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=True,
    )
    assert done.stdout.split() == [code, str(side)]
