"""The classifier beside what else a user could run, on the same device in the same run.

    make bench-model [PHOTOGRAPHS=photos.tar]
    python benchmarks/model.py [--photographs photos.tar] [--batches 1 8 32] [--rounds 5]

Every contender is a process of its own with the same weights (drawn by seed), and is let go in
turn: round by round each classifies for about a second, so that whatever else the machine does
meets all of them. Prints, for each size of batch, images/s (median, slowest and fastest round),
the ratio to the first contender, how long it took from its start to its first answer, its
memory, and the relative L2 error of its logits against the first one's. On a GPU also the share
of the roofline (`benchmarks/roofline.py`) of an H200.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

MODEL = "resnext101_32x4d"
CROP = 224
# Of an H200, from benchmarks/roofline.py.
ROOFLINE_IMAGES_S = 35_000
ROUND_S = 1.0
Run = Callable[[], np.ndarray]
"""Classifies the batch and returns its logits, or for ours nothing of use."""


# What a contender process does


def torchvision_network(folder: Path) -> Any:
    import torch
    from torchvision.models.resnet import Bottleneck, ResNet

    network = ResNet(Bottleneck, [3, 4, 23, 3], groups=32, width_per_group=4).eval()
    network.load_state_dict(torch.load(folder / "weights.pth", weights_only=True))
    return network.requires_grad_(requires_grad=False)


def normal(pixels: np.ndarray) -> Any:
    """(N, 224, 224, 3) uint8 → (N, 3, 224, 224) float32, normalised."""
    import torch

    mean = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
    std = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)
    return ((torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std).contiguous()


def device() -> Any:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def run_torch(network: Any, pixels: np.ndarray, *, amp: bool) -> Run:
    """On ready tensors on the device; waits for it."""
    import torch

    where = device()
    images = normal(pixels).to(where)
    network = network.to(where)
    half = torch.float16 if where.type == "cuda" else torch.bfloat16
    if amp:
        images = images.to(memory_format=torch.channels_last)
        network = network.to(memory_format=torch.channels_last)

    def run() -> np.ndarray:
        with torch.inference_mode(), torch.autocast(where.type, half, enabled=amp):
            return network(images).float().cpu().numpy()

    return run


def eager(folder: Path, pixels: np.ndarray) -> Run:
    return run_torch(torchvision_network(folder), pixels, amp=False)


def eager_amp(folder: Path, pixels: np.ndarray) -> Run:
    return run_torch(torchvision_network(folder), pixels, amp=True)


def compiled_amp(folder: Path, pixels: np.ndarray) -> Run:
    import torch

    network = torch.compile(torchvision_network(folder), mode="max-autotune")
    return run_torch(network, pixels, amp=True)


def timm_amp(folder: Path, pixels: np.ndarray) -> Run:
    import timm
    import torch

    network = timm.create_model(MODEL, pretrained=False).eval()
    network.load_state_dict(torch.load(folder / "weights.pth", weights_only=True))
    return run_torch(network.requires_grad_(requires_grad=False), pixels, amp=True)


def onnx_runtime(folder: Path, pixels: np.ndarray) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = onnxruntime.InferenceSession(
        folder / "network.onnx", options, providers=["CPUExecutionProvider"]
    )
    images = normal(pixels).numpy()
    return lambda: session.run(None, {"images": images})[0]


def openvino(folder: Path, pixels: np.ndarray, precision: str) -> Run:
    import openvino

    core = openvino.Core()
    network = core.compile_model(
        core.read_model(folder / "network.onnx"),
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0)),
        },
    )
    images = normal(pixels).numpy()
    return lambda: np.asarray(network(images)[0])


def openvino_fp32(folder: Path, pixels: np.ndarray) -> Run:
    return openvino(folder, pixels, "f32")


def openvino_bf16(folder: Path, pixels: np.ndarray) -> Run:
    return openvino(folder, pixels, "bf16")


def ours(folder: Path, pixels: np.ndarray, engine: Any) -> Run:
    """From uint8 pixels in the CPU's memory to classes, as the worker's batcher calls it."""
    import torch

    from resnext import load_classifier

    classifier = load_classifier(
        MODEL, str(folder / "weights.pth"), engine=engine, batch_images=len(pixels)
    )
    # This size alone; a worker warms up the smaller ones as well.
    classifier._buckets = [len(pixels)]
    classifier.warm_up()
    if classifier.engine != engine:
        raise RuntimeError(f"ran {classifier.engine}")

    def run() -> np.ndarray:
        # Two under way, as the batcher has them; on a CPU each is done at once.
        first, second = classifier.start(pixels), classifier.start(pixels)
        first.result()
        second.result()
        return np.empty(0)

    def logits() -> np.ndarray:
        with torch.inference_mode():
            found = classifier._module(torch.from_numpy(pixels).to(device()))
        return found.cpu().numpy()

    run.logits = logits  # type: ignore[attr-defined]
    run.batches = 2  # type: ignore[attr-defined]
    return run


def ours_eager(folder: Path, pixels: np.ndarray) -> Run:
    return ours(folder, pixels, "eager")


def ours_compiled(folder: Path, pixels: np.ndarray) -> Run:
    return ours(folder, pixels, "compiled")


def ours_openvino(folder: Path, pixels: np.ndarray) -> Run:
    return ours(folder, pixels, "openvino")


CONTENDERS: dict[str, tuple[str, Callable[[Path, np.ndarray], Run], str]] = {
    "eager": ("(a) torchvision, eager, fp32", eager, "any"),
    "eager_amp": ("(b) torchvision, eager, AMP NHWC", eager_amp, "any"),
    "compiled_amp": ("(c) torchvision, max-autotune, AMP NHWC", compiled_amp, "any"),
    "onnx_runtime": ("(d) ONNX Runtime, fp32", onnx_runtime, "cpu"),
    "openvino_fp32": ("(d) OpenVINO, fp32", openvino_fp32, "cpu"),
    "openvino_bf16": ("(d) OpenVINO, bf16", openvino_bf16, "cpu"),
    "timm": ("(e) timm, eager, AMP NHWC", timm_amp, "any"),
    "ours_eager": ("ours, eager", ours_eager, "any"),
    "ours_compiled": ("ours, compiled", ours_compiled, "any"),
    "ours_openvino": ("ours, OpenVINO", ours_openvino, "cpu"),
}


def contend(name: str, folder: Path) -> None:
    """Answers a line of standard input with a line of JSON on standard output."""
    warnings.simplefilter("ignore")
    pixels = np.load(folder / "pixels.npy")
    run = CONTENDERS[name][1](folder, pixels)
    logits = getattr(run, "logits", run)()
    print(json.dumps({"ready": True}), flush=True)  # it has given its first answer
    np.save(folder / f"{name}.npy", logits)
    run()
    began = time.perf_counter()
    run()
    batches = getattr(run, "batches", 1)
    times = max(1, round(ROUND_S / (time.perf_counter() - began)))
    print(json.dumps({"settled": True}), flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        for _ in range(times):
            run()
        seconds = (time.perf_counter() - began) / times / batches
        print(json.dumps({"seconds": seconds, "memory": memory_bytes()}), flush=True)


def memory_bytes() -> int:
    """The most so far: of the GPU where there is one, else of the process."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    # Of this program alone: getrusage's ru_maxrss begins with that of the process it came from.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


# What the program does


@dataclass
class Contender:
    name: str
    process: subprocess.Popen[str]
    ready_s: float = 0.0
    seconds: list[float] = field(default_factory=list)
    memory: int = 0

    def ask(self) -> dict[str, Any] | None:
        """None if it has ended."""
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
        self.memory = answer["memory"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", type=Path, help="a tar file of photographs")
    parser.add_argument("--batches", type=int, nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=CONTENDERS)
    parser.add_argument("--contend", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.contend:
        contend(chosen.contend[0], Path(chosen.contend[1]))
        return
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
        prepare(folder, with_onnx=kind == "cpu")
        for batch in batches:
            np.save(folder / "pixels.npy", pictures(chosen.photographs, batch))
            with contending(folder, names) as contenders:
                for _ in range(chosen.rounds):
                    for contender in contenders:
                        contender.go()
            Console(width=120).print(table_of(folder, contenders, batch, kind))


def machine() -> str:
    import torch

    cpu = "unknown"
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line for line in lines if line.startswith("model name")).partition(": ")[2]
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    cores = len(os.sched_getaffinity(0))
    return (
        f"{cpu}, {cores} cores{gpu}; Python {platform.python_version()}, torch {torch.__version__}"
    )


def prepare(folder: Path, *, with_onnx: bool) -> None:
    """The weights that all contenders load, and the ONNX file."""
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
    """(n, 224, 224, 3) uint8: photographs if there are any, else what looks a little like some."""
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
    """Those that can start; the others are told of. They start one after the other."""
    contenders = []
    for name in names:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, __file__, "--contend", name, str(folder)],
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
        contender.ask()  # it has settled: nothing else runs while the next one starts
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
    columns = ["", "images/s", "slowest to fastest", "ratio", "ready s", "memory MB", "L2 error"]
    table = Table(*columns, *(["of roofline"] if kind == "cuda" else []), title=f"batch {batch}")
    for contender in contenders:
        median = statistics.median(contender.seconds)
        found = np.load(folder / f"{contender.name}.npy")
        row = [
            CONTENDERS[contender.name][0],
            f"{batch / median:,.1f}",
            f"{batch / max(contender.seconds):,.1f} to {batch / min(contender.seconds):,.1f}",
            f"{statistics.median(first.seconds) / median:.2f}",
            f"{contender.ready_s:.1f}",
            f"{contender.memory / 1e6:,.0f}",
            f"{np.linalg.norm(found - expected) / np.linalg.norm(expected):.5f}",
        ]
        share = [f"{batch / median / ROOFLINE_IMAGES_S:.0%}"] if kind == "cuda" else []
        table.add_row(*row, *share)
    return table


if __name__ == "__main__":
    main()
