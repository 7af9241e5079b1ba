"""Fuzzes the decoders for a while and keeps what breaks them: `make fuzz`.

    python -m tests.fuzz.run --minutes 30 [--seed N] [--findings FOLDER]

The run decodes the tests' odd images first, and prints their outcomes and the memory they took.
Then it mutates them, guided by the coverage of the Python code that decodes. A crash, a hang, too
much memory or an error without a code ends the decoding process. The run keeps the image in the
folder, prints the command that replays it, and starts another process. It exits with status 1 if it
found anything. Images that reach new code are kept as well, and the next run starts from them.
Every half minute the run prints its progress, and its last line is a summary.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tests.fuzz.progress import Progress
from tests.pictures.decoder import ROOT, decoder
from tests.pictures.odd_images import odd_images

TARGET = "tests.fuzz.target"
# Larger images are bombs. The tests cover these, and their mutations take long.
LARGEST_SEED_BYTES = 12_000
# A loader may take RESNEXT_DECODE_DEADLINE_S, 20 s by default, for images of 100 million pixels.
LONGEST_S = 20
# Includes the tables of coverage and the corpus.
MOST_MEMORY_MIB = 1024
LOG = "fuzz.log"
TELL_EVERY_S = 30.0
# The fuzzer checks the time only between images.
OVERTIME_S = 3 * LONGEST_S
KINDS_OF_FINDINGS = ("crash-", "timeout-", "oom-", "leak-")


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--minutes", type=float, default=30)
    arguments.add_argument(
        "--seed", type=int, default=0, help="seed of the mutations; 0: a new one each time"
    )
    arguments.add_argument("--findings", type=Path, default=ROOT / "build" / "fuzz")
    chosen = arguments.parse_args()
    corpus = chosen.findings / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    known = set(findings(chosen.findings))
    begun_at = time.monotonic()
    odd, peak_mib = decode_seeds(corpus)
    seconds = 60 * chosen.minutes - (time.monotonic() - begun_at)
    progress = Progress(odd_images=odd, peak_mib=peak_mib, seconds=seconds)
    while progress.left_s >= 1:
        before = len(findings(chosen.findings))
        seed = chosen.seed or random.randrange(1, 2**31)
        status = fuzz(corpus, chosen.findings, progress, seed, before - len(known))
        if status != 0 and len(findings(chosen.findings)) == before:
            print(f"The fuzzer itself ended with {status}; see {chosen.findings / LOG}")
            return 2
    new = sorted(set(findings(chosen.findings)) - known)
    for path in new:
        print(f"found: {path}\n  replay: {sys.executable} -m {TARGET} {path}")
    print(f"{len(list(corpus.iterdir())):,} images in the corpus at the end")
    print(progress.at_the_end(len(new)))
    return 1 if new else 0


def findings(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(KINDS_OF_FINDINGS)]


def decode_seeds(corpus: Path) -> tuple[int, int]:
    """Writes the odd images that are small enough as seeds, and prints the outcomes of all.

    Returns how many odd images there are, and the most MiB that one of them took.
    """
    endings: Counter[str] = Counter()
    with decoder() as child:
        at_rest = child.decode(b"").peak_bytes
        most = at_rest, "nothing"
        for image in odd_images():
            ending = child.decode(image.body)
            endings[ending.code] += 1
            most = max(most, (ending.peak_bytes, image.name))
            if len(image.body) <= LARGEST_SEED_BYTES:
                (corpus / hashlib.sha256(image.body).hexdigest()).write_bytes(image.body)
    print(f"{endings.total()} odd images: {dict(endings.most_common())}")
    print(f"at most {most[0] >> 20} MiB ({most[1]}), {at_rest >> 20} MiB at rest")
    print(f"{len(list(corpus.iterdir()))} seeds", flush=True)
    return endings.total(), most[0] >> 20


def fuzz(corpus: Path, kept: Path, progress: Progress, seed: int, found: int) -> int:
    """Fuzzes until the time is over or something new is found, and returns the exit status."""
    options = {
        "artifact_prefix": f"{kept}{os.sep}",
        "max_total_time": int(progress.left_s),
        "timeout": LONGEST_S,
        "rss_limit_mb": MOST_MEMORY_MIB,
        "max_len": 2 * LARGEST_SEED_BYTES,
        "seed": seed,
        "use_value_profile": 1,
        "print_final_stats": 1,
    }
    arguments = [f"-{key}={value}" for key, value in options.items()]
    command = [sys.executable, "-m", TARGET, corpus, *arguments]
    with (
        (kept / LOG).open("wb") as log,
        (kept / LOG).open(errors="replace") as written,
        subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT) as child,
    ):
        while (status := ended(child, TELL_EVERY_S)) is None:
            follow(written, progress)
            print(progress.so_far(found), flush=True)
            if progress.left_s < -OVERTIME_S:
                child.kill()
        follow(written, progress)
    progress.next_process()
    return status


def ended(child: subprocess.Popen[bytes], within_s: float) -> int | None:
    """Returns the exit status if the process ends within this time."""
    with suppress(subprocess.TimeoutExpired):
        return child.wait(within_s)
    return None


def follow(written: Iterable[str], progress: Progress) -> None:
    for line in written:
        progress.read(line)


if __name__ == "__main__":
    sys.exit(main())
