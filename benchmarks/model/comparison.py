"""Compares the classifier with other engines, on the same device in the same run.

    make bench-model [PHOTOGRAPHS=photos.tar]
    python -m benchmarks.model.comparison [--photographs photos.tar] [--batches 1 8 32] [--rounds 5]
    python -m benchmarks.model.comparison --shortlist --batches 1 32

`--shortlist` keeps only the reference, OpenVINO, and our default and eager engines in both
precisions. Each contender is a process with the same weights (drawn by seed). They take turns:
round by round each classifies for about a second, so that other load affects all of them. Prints,
for each batch size, images/s (median, slowest and fastest round), the ratio to the first contender
(median, lowest and highest, each within its round), the CPU time per image, the time from the
process's start to its first answer, its memory, and the relative L2 error of its logits against
the first contender's. On a GPU it also prints the share of an H200's roofline
(`benchmarks/model/roofline.py`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.model.contenders import CONTENDERS, MODEL, torchvision_network
from benchmarks.rig.child import ROOT
from benchmarks.rig.machine import device, machine

CROP = 224
# An H200's roofline, from benchmarks/model/roofline.py.
ROOFLINE_IMAGES_S = 35_000
OF_ONNX = {"onnx_runtime", "openvino_fp32", "openvino_bf16"}
SHORTLIST = [
    *("eager", "eager_amp", "openvino_fp32", "openvino_bf16"),
    *("ours", "ours_eager", "ours_fp32", "ours_eager_fp32"),
]


@dataclass
class Contender:
    name: str
    process: subprocess.Popen[str]
    ready_s: float = 0.0
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    memory: int = 0

    def ask(self) -> dict[str, Any] | None:
        """Asks for the next answer; None if the process has ended."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):
                answer: dict[str, Any] = json.loads(line)
                return answer
        return None

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        answer = self.ask()
        assert answer is not None, f"{self.name} has ended"
        self.seconds.append(answer["seconds"])
        self.cpu_seconds.append(answer["cpu_seconds"])
        self.memory = answer["memory"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", type=Path, help="a tar file of photographs")
    parser.add_argument("--batches", type=int, nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=CONTENDERS)
    parser.add_argument("--shortlist", action="store_const", dest="only", const=SHORTLIST)
    chosen = parser.parse_args()
    kind = device().type
    batches = chosen.batches or ([1, 8, 32] if kind == "cpu" else [1, 8, 32, 64, 128, 256])
    names = [
        name
        for name, (_, _, where) in CONTENDERS.items()
        if where in ("any", kind) and (not chosen.only or name in chosen.only)
    ]
    print(machine())
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepare(folder, with_onnx=not OF_ONNX.isdisjoint(names))
        for batch in batches:
            np.save(folder / "pixels.npy", pictures(chosen.photographs, batch))
            with contending(folder, names) as contenders:
                for _ in range(chosen.rounds):
                    for contender in contenders:
                        contender.go()
            Console(width=150).print(table_of(folder, contenders, batch, kind))


def prepare(folder: Path, *, with_onnx: bool) -> None:
    """Writes the weights that all contenders load, and the ONNX file."""
    import torch

    from resnext.network import build_network
    from resnext.spec.catalogue import find_spec
    from resnext.weights.random import draw_weights

    spec = find_spec(MODEL)
    network = build_network(spec)
    draw_weights(network, spec)
    torch.save(network.state_dict(), folder / "weights.pth")
    if with_onnx:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                torchvision_network(folder),
                (torch.zeros(2, 3, CROP, CROP),),
                str(folder / "network.onnx"),
                input_names=["images"],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1024)},),
                dynamo=True,
                verbose=False,
            )


def pictures(photographs: Path | None, n: int) -> np.ndarray:
    """(n, 224, 224, 3) uint8: photographs, or synthetic pictures if there are none."""
    import torch
    from PIL import Image

    from resnext.picture.preprocess import resize_and_crop, to_rgb
    from resnext.spec.catalogue import find_spec
    from resnext.weights.random import synthetic_pictures

    preprocessing = find_spec(MODEL).preprocessing
    if photographs is None:
        generator = torch.Generator().manual_seed(1)
        made = synthetic_pictures(n + n % 2, preprocessing, generator)[:n]
        mean, std = (torch.tensor(c).view(3, 1, 1) for c in (preprocessing.mean, preprocessing.std))
        return ((made * std + mean) * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    with tarfile.open(photographs) as archive:
        files = [member for member in archive if member.isfile()]
        taken = [files[k % len(files)] for k in range(n)]
        return np.stack(
            [
                resize_and_crop(to_rgb(Image.open(archive.extractfile(one))), preprocessing)
                for one in taken
            ]
        )


@contextlib.contextmanager
def contending(folder: Path, names: list[str]) -> Iterator[list[Contender]]:
    """Starts the contenders in sequence. Prints which ones cannot start, and leaves them out."""
    contenders = []
    for name in names:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.model.contenders", name, str(folder)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        contender = Contender(name, process)
        if contender.ask() is None:
            assert process.stderr is not None
            lines = process.stderr.read().strip().splitlines() or ["no reason given"]
            print(f"left out: {CONTENDERS[name][0]}: {lines[-1]}", file=sys.stderr)
            continue
        contender.ready_s = time.perf_counter() - began
        contender.ask()  # now it is idle, so nothing else runs while the next one starts
        contenders.append(contender)
    try:
        yield contenders
    finally:
        for contender in contenders:
            assert contender.process.stdin is not None
            contender.process.stdin.close()
            contender.process.wait()


def table_of(folder: Path, contenders: list[Contender], batch: int, kind: str) -> Table:
    first = contenders[0]
    expected = np.load(folder / f"{first.name}.npy")
    columns = ["", "images/s", "slowest to fastest", "ratio", "lowest to highest"]
    columns += ["CPU ms per image", "ready s", "memory MB", "L2 error"]
    table = Table(*columns, *(["of roofline"] if kind == "cuda" else []), title=f"batch {batch}")
    for contender in contenders:
        median = statistics.median(contender.seconds)
        found = np.load(folder / f"{contender.name}.npy")
        ratios = [a / b for a, b in zip(first.seconds, contender.seconds, strict=True)]
        row = [
            CONTENDERS[contender.name][0],
            f"{batch / median:,.1f}",
            f"{batch / max(contender.seconds):,.1f} to {batch / min(contender.seconds):,.1f}",
            f"{statistics.median(ratios):.2f}",
            f"{min(ratios):.2f} to {max(ratios):.2f}",
            f"{statistics.median(contender.cpu_seconds) / batch * 1e3:,.1f}",
            f"{contender.ready_s:.1f}",
            f"{contender.memory / 1e6:,.0f}",
            f"{np.linalg.norm(found - expected) / np.linalg.norm(expected):.5f}",
        ]
        share = [f"{batch / median / ROOFLINE_IMAGES_S:.0%}"] if kind == "cuda" else []
        table.add_row(*row, *share)
    return table


if __name__ == "__main__":
    main()
