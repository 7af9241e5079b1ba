"""The row that fetches, decodes and crops, and does nothing else, beside img2dataset.

Called by benchmarks/pipeline.py. img2dataset holds libraries back at old versions and brings a
stand-in for a module of the standard library, so it gets an environment of its own, thrown away
at the end. Both are timed by what the web has served, between 20% and 80% of a run.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import requests
from PIL import Image
from rich.table import Table
from row import Conditions, Series, comparison, tell
from web import NO_FAULTS, Script, Web

from contract.settings import load_settings
from worker.loaders import Loaded, LoaderPool, LoadFailed
from worker.model import find_model

ROOT = Path(__file__).parents[1]
UV = Path(sys.executable).with_name("uv")
LOCK = ROOT / "requirements" / "img2dataset.txt"
# So many that what img2dataset fetches ahead of its decoder, two images a thread, is over before
# the middle of the run, in which both are timed.
IMAGES = 12_000
EXACT_IMAGES = 50
# Its own default, and as many as one of our loaders has.
THREADS = (256, 32)
STEADY = (0.2, 0.8)
POLL_S = 0.2
TIMEOUT_S = 20.0


def beside_img2dataset(conditions: Conditions) -> Table:
    images = conditions.images(IMAGES)
    ours = Series("ours")
    peers = {threads: Series(f"img2dataset, {threads} threads a process") for threads in THREADS}
    with (
        conditions.web(Script(**NO_FAULTS)) as web,
        tempfile.TemporaryDirectory(dir=conditions.scratch) as scratch,
    ):
        img2dataset = install_img2dataset(Path(scratch))
        exact = check_exact(web, conditions.images(EXACT_IMAGES))
        for n in range(conditions.rounds):
            firsts = range(n * 3 * images, (n + 1) * 3 * images, images)
            batches = [web.uris(images, first) for first in firsts]
            ours.note(steady_rate(web, images, partial(load, batches[0])), "images/s")
            for uris, (threads, peer) in zip(batches[1:], peers.items(), strict=True):
                run = make_run(img2dataset, Path(scratch), uris, threads)
                peer.note(steady_rate(web, images, run), "images/s")
        burden = web.burden()
    title = "Fetch, decode and crop alone"
    table = comparison(title, "images/s", ours, list(peers.values()), 1.3)
    table.caption = (
        f"{table.caption}\nours equal torchvision's to the bit: {exact} of {exact}; img2dataset "
        f"encodes what it has cropped\n{images:,} images a round; {burden}"
    )
    return table


def decode_alone(web: Web, images: int) -> float:
    """Images/s of the loaders where nothing waits behind them."""
    return steady_rate(web, images, lambda: load(web.uris(images)))


def load(uris: Sequence[str], keep: Callable[[str, np.ndarray], object] | None = None) -> None:
    """Every image by the worker's loaders; `keep` sees its pixels, which are then given back."""
    settings = load_settings(fetch_allow=("127.0.0.0/8",))
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
            pool.load(uri, partial(take_in, uri))
        for _ in uris:
            settled.acquire()
    finally:
        pool.close()


def check_exact(web: Web, images: int) -> int:
    """The number of images that are equal to torchvision's to the bit.

    Raises:
        RuntimeError: one is not.
    """
    uris, found = web.uris(images), dict[str, np.ndarray]()
    load(uris, lambda uri, pixels: found.update({uri: pixels.copy()}))
    wrong = [
        uri for uri in uris if uri not in found or not np.array_equal(found[uri], expected(uri))
    ]
    if wrong:
        raise RuntimeError(f"not as torchvision has them: {wrong}")
    return len(uris)


def expected(uri: str) -> np.ndarray:
    """What the reference makes of it."""
    from torchvision import transforms

    preprocessing = find_model(load_settings()).preprocessing
    prepare = transforms.Compose(
        [transforms.Resize(preprocessing.resize), transforms.CenterCrop(preprocessing.crop)]
    )
    body = requests.get(uri, timeout=TIMEOUT_S).content
    return np.asarray(prepare(Image.open(io.BytesIO(body)).convert("RGB")))


def install_img2dataset(scratch: Path) -> Path:
    """The command, in an environment of its own."""
    tell("installing img2dataset")
    folder = scratch / "img2dataset"
    python = folder / "bin" / "python"
    for command in (
        ["venv", "--python", sys.executable, folder],
        ["pip", "install", "--python", python, "--require-hashes", "-r", LOCK],
    ):
        subprocess.run([UV, *command, "--quiet"], check=True)
    return folder / "bin" / "img2dataset"


def make_run(img2dataset: Path, scratch: Path, uris: list[str], threads: int) -> Callable[[], None]:
    """One run of it, with a shard a process, so that none waits for the next one to begin."""
    processes = len(os.sched_getaffinity(0))
    options = {
        "url_list": scratch / "urls.txt",
        "output_folder": tempfile.mkdtemp(dir=scratch),
        "output_format": "dummy",
        "image_size": 224,
        "resize_mode": "center_crop",
        "processes_count": processes,
        "thread_count": threads,
        "number_sample_per_shard": -(-len(uris) // processes),
        "extract_exif": False,
        "enable_wandb": False,
    }

    def run() -> None:
        (scratch / "urls.txt").write_text("\n".join(uris))
        with (scratch / "img2dataset.log").open("wb") as log:
            subprocess.run(
                [img2dataset, *(f"--{name}={value}" for name, value in options.items())],
                env=os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"},
                stdout=log,
                stderr=log,
                check=True,
            )

    return run


def steady_rate(web: Web, images: int, run: Callable[[], None]) -> float:
    """Images/s that the web served in the middle of the run."""
    before = sum(web.counts()["served"].values())
    running = threading.Thread(target=run)
    running.start()
    seen: list[tuple[float, int]] = []
    while running.is_alive():
        counts = web.counts()
        seen.append((counts["at"], sum(counts["served"].values()) - before))
        running.join(POLL_S)
    at, served = zip(*seen, strict=True)
    first, last = (share * images for share in STEADY)
    began, ended = np.interp([first, last], served, at)
    if served[-1] < last:
        raise RuntimeError(f"only {served[-1]} of {images} images were fetched")
    return (last - first) / float(ended - began)
