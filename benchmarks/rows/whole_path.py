"""Rows that time a job from its `submit` to its last row in SQL, beside other ways to do the same.

Called by benchmarks/pipeline.py. No URI hangs here: waiting for deadlines and retries would hide
how fast the rest is.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.table import Table

from benchmarks.model.comparison import Contender, contending, pictures, prepare
from benchmarks.peers.task_an_image import prefork_pool
from benchmarks.rig.child import Child
from benchmarks.rig.figures import shown, spread
from benchmarks.rig.installation import RANDOM_WEIGHTS, Installation
from benchmarks.rig.machine import device
from benchmarks.rig.web import NO_FAULTS, Script
from benchmarks.rows.loading import decode_alone
from benchmarks.rows.row import Conditions, Series, comparison, ratios, verdict
from contract.settings import load_settings

# About a minute's work on a CPU; half a minute's on a GPU, which is a few hundred times as fast.
CPU_IMAGES, CUDA_IMAGES = 1_280, 60_000
ALONE_S = 15.0
SEED_IMAGES, BESIDE_SEED_IMAGES = 60, 480
TASK_IMAGES = 4_000
CONCURRENCIES = (2, 16, 64)


@contextlib.contextmanager
def real_worker(conditions: Conditions) -> Iterator[Installation]:
    with conditions.installed(RANDOM_WEIGHTS) as installation:
        installation.start("dispatch")
        installation.start("worker")
        installation.await_ready("worker")
        yield installation


def beside_classifier(conditions: Conditions) -> Table:
    """The whole path beside the classifier alone and, on a GPU, the decoders alone."""
    on_gpu = device().type == "cuda"
    images = conditions.images(CUDA_IMAGES if on_gpu else CPU_IMAGES)
    ours, alone, decoded = Series("whole path"), Series("classifier alone"), Series("decode alone")
    busy = Series("the GPU's busy share")
    with (
        conditions.web(Script(**NO_FAULTS)) as web,
        real_worker(conditions) as installation,
        classifier_alone(conditions) as contender,
    ):
        for n in range(conditions.rounds):
            with gpu_share(busy) if on_gpu else contextlib.nullcontext():
                ours.note(installation.run(web.uris(images, n * images)).images_s, "images/s")
            alone.note(rate_of(contender, conditions.seconds(ALONE_S)), "images/s")
            if on_gpu:
                decoded.note(decode_alone(web, images), "images/s")
        burden = web.burden()
    table = comparison(
        "Submit to last row, and the classifier alone on ready pixels",
        "images/s",
        ours,
        [alone],
        0.9,
    )
    if on_gpu:
        add_gpu(table, ours, alone, decoded, busy)
    table.caption = f"{table.caption}\n{images:,} images per round; {burden}"
    return table


def add_gpu(table: Table, ours: Series, alone: Series, decoded: Series, busy: Series) -> None:
    """Adds the decoders. The mark then applies to the slower of classifier and decoders."""
    times = ratios(ours, decoded)
    median = f"{statistics.median(times):.2f}"
    table.add_row(
        "decode alone", shown(decoded.median), spread(decoded.values), median, spread(times)
    )
    slower = Series("the slower", list(map(min, alone.values, decoded.values)))
    table.caption = (
        f"{verdict('ours to the slower of both:', ratios(ours, slower), 0.9)}\n"
        f"the GPU was busy {busy.median:.0f}% of the time ({spread(busy.values)})"
    )


@contextlib.contextmanager
def classifier_alone(conditions: Conditions) -> Iterator[Contender]:
    """Runs it like benchmarks/model/comparison.py, with the worker's batch size and engine."""
    name = "ours_auto" if device().type == "cuda" else "ours_eager"
    with tempfile.TemporaryDirectory(dir=conditions.scratch) as scratch:
        prepare(Path(scratch), with_onnx=False)
        batch = pictures(conditions.photographs, batch_images())
        np.save(Path(scratch) / "pixels.npy", batch)
        with contending(Path(scratch), [name]) as contenders:
            yield contenders[0]


def batch_images() -> int:
    """The batch size that the worker would choose."""
    from resnext.run.gpu import choose_batch_images

    return load_settings().batch_images or choose_batch_images(device())


def rate_of(contender: Contender, seconds: float) -> float:
    """Images/s, measured for about so long."""
    batch = batch_images()
    ends_at, began = time.monotonic() + seconds, len(contender.seconds)
    contender.go()
    while time.monotonic() < ends_at:
        contender.go()
    return batch / statistics.mean(contender.seconds[began:])


@contextlib.contextmanager
def gpu_share(busy: Series) -> Iterator[None]:
    """Asks the driver twice per second for which share of the time the GPU was computing."""
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    ended, seen = threading.Event(), []

    def look() -> None:
        while not ended.wait(0.5):
            seen.append(float(subprocess.check_output([*query, "--id=0"], text=True)))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield
    finally:
        ended.set()
        looking.join()
    busy.note(statistics.mean(seen), "%")


def beside_seed(conditions: Conditions) -> Table:
    """The whole path beside a loop that handles one image after the other."""
    ours, seed = Series("whole path"), Series("requests, Pillow, batch of 1, eager")
    images, beside = conditions.images(SEED_IMAGES), conditions.images(BESIDE_SEED_IMAGES)
    with (
        conditions.web(Script(**NO_FAULTS)) as web,
        real_worker(conditions) as installation,
        tempfile.TemporaryDirectory(dir=conditions.scratch) as scratch,
    ):
        prepare(Path(scratch), with_onnx=False)
        with Child("benchmarks.peers.seed_way", scratch, log=Path(scratch, "log")) as loop:
            loop.read()  # the network is loaded
            for n in range(conditions.rounds):
                first = n * (images + beside)
                ours.note(installation.run(web.uris(beside, first)).images_s, "images/s")
                answer = loop.ask(uris=web.uris(images, first + beside))
                seed.note(images / answer["seconds"], "images/s")
        burden = web.burden()
    table = comparison("The whole path, and the plain loop", "images/s", ours, [seed], 4.0)
    table.caption = f"{table.caption}\n{beside} and {images} images per round; {burden}"
    return table


def beside_task_an_image(conditions: Conditions) -> Table:
    """The whole path without a network, beside one Celery task per image on a prefork pool.

    All programs run all the time and get work in turn. Ours tries each image once, like the peer. A
    small pool gets fewer images: two processes that fetch one image after the other would take six
    minutes for all of them.
    """
    firsts = itertools.count(0, TASK_IMAGES)
    shares = [1.0, *(n / max(CONCURRENCIES) for n in CONCURRENCIES)]
    ours = Series("whole path, a classifier that costs nothing")
    peers = [Series(f"one task per image, prefork, concurrency {n}") for n in CONCURRENCIES]
    with contextlib.ExitStack() as stack:
        web = stack.enter_context(conditions.web(Script(hang=0.0)))
        wanted = RANDOM_WEIGHTS | {"RESNEXT_MAX_ATTEMPTS": "1"}
        installation = stack.enter_context(conditions.installed(wanted))
        installation.start("dispatch")
        stack.enter_context(installation.simulated_worker(0))
        pools = [stack.enter_context(prefork_pool(installation, n)) for n in CONCURRENCIES]
        ways = [lambda uris: installation.run(uris).seconds, *(pool.run for pool in pools)]
        for _ in range(conditions.rounds):
            for series, run, share in zip([ours, *peers], ways, shares, strict=True):
                images = conditions.images(round(TASK_IMAGES * share))
                before_s = installation.cpu_s(without=[web.pid])
                series.note(images / run(web.uris(images, next(firsts))), "images/s")
                spent_s = installation.cpu_s(without=[web.pid]) - before_s
                series.cpu_ms.append(1000 * spent_s / images)
        burden = web.burden()
    title = "The whole path without a network, and one Celery task per image"
    table = comparison(title, "images/s", ours, peers, 1.5)
    table.caption = f"{table.caption}\n{images:,} images per round; {burden}"
    return table
