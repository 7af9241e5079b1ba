"""The row that only fetches, decodes and crops, beside img2dataset.

Called by benchmarks/pipeline.py. Speed and CPU time of both are measured between 20% and 80% of a
run, by what the web has served. Below the table, the CPU time is split into parts.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import requests
from PIL import Image
from rich.table import Table

from benchmarks.peers.img2dataset import install_img2dataset, make_run
from benchmarks.rig.figures import shown
from benchmarks.rig.processes import cpu_s
from benchmarks.rig.web import NO_FAULTS, Script, Web
from benchmarks.rows.row import Conditions, Series, comparison
from contract.failure import Failure
from contract.settings import Settings, load_settings
from resnext.picture.decode import DecodeLimits, decode
from worker.batch.model import find_model
from worker.loader.fetch.fetcher import Fetched, Fetcher
from worker.loader.fetch.loop import Loop
from worker.loader.fetch.settings import FetchSettings
from worker.pool.pool import LineFull, Loaded, LoaderPool, LoadFailed

# Enough that img2dataset's start, when it fetches two images per thread ahead of its decoder, ends
# before the middle of the run, in which both are timed.
IMAGES = 12_000
EXACT_IMAGES = 50
PARTS_IMAGES = 100
ALLOWED = ("127.0.0.0/8",)
# img2dataset's default, and as many as one of our loaders has.
THREADS = (256, 32)
STEADY = (0.2, 0.8)
POLL_S = 0.5
TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Steady:
    """Figures from the middle of a run; milliseconds are CPU time per image."""

    images_s: float
    cpu_ms: float
    """CPU time of all processes but the web."""
    own_ms: float
    """The part of this process, which passes the images to our loaders."""
    web_ms: float

    @property
    def busy(self) -> float:
        """The share of all cores that was busy with it."""
        cores = len(os.sched_getaffinity(0))
        return self.images_s * (self.cpu_ms + self.web_ms) / 1000 / cores


def beside_img2dataset(conditions: Conditions) -> Table:
    images = conditions.images(IMAGES)
    ours = Series("ours")
    peers = {threads: Series(f"img2dataset, {threads} threads per process") for threads in THREADS}
    with (
        conditions.web(Script(**NO_FAULTS)) as web,
        tempfile.TemporaryDirectory(dir=conditions.scratch) as scratch,
    ):
        img2dataset = install_img2dataset(Path(scratch))
        exact = check_exact(web, conditions.images(EXACT_IMAGES))
        parts = measure_parts(web.uris(conditions.images(PARTS_IMAGES)))
        middles = list[Steady]()
        for n in range(conditions.rounds):
            firsts = range(n * 3 * images, (n + 1) * 3 * images, images)
            batches = [web.uris(images, first) for first in firsts]
            middles.append(note(ours, steady(web, images, partial(load, batches[0]))))
            for uris, (threads, peer) in zip(batches[1:], peers.items(), strict=True):
                run = make_run(img2dataset, Path(scratch), uris, threads)
                note(peer, steady(web, images, run))
        burden = web.burden()
    title = "Fetch, decode and crop alone"
    table = comparison(title, "images/s", ours, list(peers.values()), 1.3)
    table.caption = (
        f"{table.caption}\nours equal torchvision's, bit for bit: {exact} of {exact}; img2dataset "
        f"encodes what it has cropped\n{images:,} images per round; {burden}\n"
        f"{where_ours_goes(parts, middles)}"
    )
    return table


def note(series: Series, middle: Steady) -> Steady:
    series.note(middle.images_s, "images/s")
    series.cpu_ms.append(middle.cpu_ms)
    return middle


def where_ours_goes(parts: dict[str, float], middles: Sequence[Steady]) -> str:
    """Describes where ours spends its CPU time; medians of the rounds."""
    loaders, own, web, busy = np.median(
        [(m.cpu_ms - m.own_ms, m.own_ms, m.web_ms, m.busy) for m in middles], axis=0
    )
    alone = ", ".join(f"{part} {shown(ms)}" for part, ms in parts.items())
    return (
        f"our CPU ms per image: loaders {shown(loaders)}, hand-over {shown(own)}, "
        f"and the web {shown(web)}; all cores {busy:.0%} busy with it\n"
        f"the loaders' part, on one thread, in sequence: {alone}"
    )


def measure_parts(uris: Sequence[str]) -> dict[str, float]:
    """CPU milliseconds per image for each part of a loader's work, on this thread alone."""
    loop = Loop()
    fetcher = Fetcher(FetchSettings.of(Settings(fetch_allow=ALLOWED)), loop, slots=1)
    preprocessing = find_model(load_settings()).preprocessing
    bodies, fetch_ms = clocked(partial(fetch, fetcher, loop), uris)
    _, hash_ms = clocked(lambda body: hashlib.sha256(body).hexdigest(), bodies)
    _, decode_ms = clocked(
        lambda body: decode(body, limits=DecodeLimits(), preprocessing=preprocessing), bodies
    )
    return {"fetch": fetch_ms, "SHA-256": hash_ms, "decode and crop": decode_ms}


def fetch(fetcher: Fetcher, loop: Loop, uri: str) -> bytes:
    """Fetches in this thread, which runs the loop meanwhile."""
    came: list[Fetched | Failure] = []
    fetcher.begin(uri, None, came.append)
    while not came:
        loop.turn()
    assert isinstance(came[0], Fetched), came
    return came[0].body


def clocked(work: Callable[[Any], Any], of: Sequence[Any]) -> tuple[list[Any], float]:
    """The results, and CPU milliseconds per item. One warm-up call does what is done only once."""
    work(of[0])
    began = time.thread_time()
    given = [work(each) for each in of]
    return given, 1000 * (time.thread_time() - began) / len(of)


def decode_alone(web: Web, images: int) -> float:
    """Images/s of the loaders alone, with nothing after them."""
    return steady(web, images, lambda: load(web.uris(images))).images_s


def load(uris: Sequence[str], keep: Callable[[str, np.ndarray], object] | None = None) -> None:
    """Loads every image with the worker's loaders. `keep` gets its pixels, which are then freed."""
    settings = load_settings(fetch_allow=ALLOWED)
    pool = LoaderPool(settings, find_model(settings).preprocessing)
    settled = threading.Semaphore(0)

    def take_in(uri: str, came: Loaded | LoadFailed) -> None:
        if isinstance(came, Loaded):
            if keep is not None:
                keep(uri, came.pixels)
            came.release()
        settled.release()

    pool.start()
    try:
        for uri in uris:
            while not _is_taken(pool, uri, partial(take_in, uri)):
                pool.await_room([uri], POLL_S)
        for _ in uris:
            settled.acquire()
    finally:
        pool.close()


def _is_taken(pool: LoaderPool, uri: str, done: Callable[[Loaded | LoadFailed], None]) -> bool:
    """Whether the pool takes the image; False if too many images of its host wait already."""
    try:
        pool.load(uri, done)
    except LineFull:
        return False
    return True


def check_exact(web: Web, images: int) -> int:
    """Checks that images equal torchvision's, bit for bit; returns their number.

    Raises:
        RuntimeError: an image differs.
    """
    uris, found = web.uris(images), dict[str, np.ndarray]()
    load(uris, lambda uri, pixels: found.update({uri: pixels.copy()}))
    wrong = [
        uri for uri in uris if uri not in found or not np.array_equal(found[uri], expected(uri))
    ]
    if wrong:
        raise RuntimeError(f"different from torchvision's: {wrong}")
    return len(uris)


def expected(uri: str) -> np.ndarray:
    """The reference's result for a picture."""
    from torchvision import transforms

    preprocessing = find_model(load_settings()).preprocessing
    prepare = transforms.Compose(
        [transforms.Resize(preprocessing.resize), transforms.CenterCrop(preprocessing.crop)]
    )
    body = requests.get(uri, timeout=TIMEOUT_S).content
    return np.asarray(prepare(Image.open(io.BytesIO(body)).convert("RGB")))


def steady(web: Web, images: int, run: Callable[[], None]) -> Steady:
    """Measures the middle of a run, by the web's counts and the processes' CPU clocks."""
    before = sum(web.counts()["served"].values())
    running = threading.Thread(target=run)
    running.start()
    seen: list[tuple[float, ...]] = []
    while running.is_alive():
        counts = web.counts()
        served = sum(counts["served"].values()) - before
        seen.append((served, counts["at"], *_clocks(web), counts["cpu_s"]))
        running.join(POLL_S)
    served_by, *clocks = zip(*seen, strict=True)
    first, last = (share * images for share in STEADY)
    if served_by[-1] < last:
        raise RuntimeError(f"only {served_by[-1]} of {images} images were fetched")
    seconds, cpu, own, web_cpu = (
        float(np.diff(np.interp([first, last], served_by, clock))[0]) for clock in clocks
    )
    ms = 1000 / (last - first)
    return Steady((last - first) / seconds, cpu * ms, own * ms, web_cpu * ms)


def _clocks(web: Web) -> tuple[float, float]:
    """CPU seconds of all processes but the web, and of this one, without this measuring thread."""
    looks_s = time.thread_time()
    return cpu_s([os.getpid()], without=[web.pid]) - looks_s, time.process_time() - looks_s
