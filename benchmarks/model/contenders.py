"""The engines that the classifier is compared with: same weights, each in its own process.

    python -m benchmarks.model.contenders NAME FOLDER

benchmarks/model/comparison.py prepares the folder and starts this. A contender answers each line of
its standard input with a line of JSON: the seconds that a batch took, and its memory.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rig.machine import device

MODEL = "resnext101_32x4d"
ROUND_S = 1.0
Run = Callable[[], np.ndarray]
"""Classifies the batch and returns its logits; for our classifier the result is not used."""


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


def run_torch(network: Any, pixels: np.ndarray, *, amp: bool) -> Run:
    """Runs on tensors that are already on the device, and waits for it."""
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


def run_ours(folder: Path, pixels: np.ndarray, engine: Any, precision: Any = "amp") -> Run:
    """Runs from uint8 pixels in the CPU's memory to classes, like the worker's batcher."""
    from resnext import load_classifier

    classifier = load_classifier(
        MODEL,
        str(folder / "weights.pth"),
        engine=engine,
        precision=precision,
        batch_images=len(pixels),
    )
    # Only this size; a worker also warms up smaller ones.
    classifier._buckets = [len(pixels)]
    classifier.warm_up()
    if engine not in {"auto", classifier.engine}:
        raise RuntimeError(f"ran {classifier.engine}")

    def run() -> np.ndarray:
        # Two batches in flight, as in the batcher; on a CPU each is done at once.
        first, second = classifier.start(pixels), classifier.start(pixels)
        first.result()
        second.result()
        return np.empty(0)

    # Compiled, and on a GPU in a graph, as in `run`, so that a wrong kernel shows in the L2 error.
    run.logits = lambda: classifier.logits(pixels)  # type: ignore[attr-defined]
    run.batches = 2  # type: ignore[attr-defined]
    return run


def ours_auto(folder: Path, pixels: np.ndarray) -> Run:
    return ours(folder, pixels, "auto")


def ours_eager(folder: Path, pixels: np.ndarray) -> Run:
    return run_ours(folder, pixels, "eager")


def ours_compiled(folder: Path, pixels: np.ndarray) -> Run:
    return run_ours(folder, pixels, "compiled")


def ours_openvino(folder: Path, pixels: np.ndarray) -> Run:
    return run_ours(folder, pixels, "openvino")


def ours(folder: Path, pixels: np.ndarray) -> Run:
    return run_ours(folder, pixels, "auto")


def ours_fp32(folder: Path, pixels: np.ndarray) -> Run:
    return run_ours(folder, pixels, "auto", "fp32")


def ours_eager_fp32(folder: Path, pixels: np.ndarray) -> Run:
    return run_ours(folder, pixels, "eager", "fp32")


CONTENDERS: dict[str, tuple[str, Callable[[Path, np.ndarray], Run], str]] = {
    "eager": ("(a) torchvision, eager, fp32", eager, "any"),
    "eager_amp": ("(b) torchvision, eager, AMP NHWC", eager_amp, "any"),
    "compiled_amp": ("(c) torchvision, max-autotune, AMP NHWC", compiled_amp, "any"),
    "onnx_runtime": ("(d) ONNX Runtime, fp32", onnx_runtime, "cpu"),
    "openvino_fp32": ("(d) OpenVINO, fp32", openvino_fp32, "cpu"),
    "openvino_bf16": ("(d) OpenVINO, bf16", openvino_bf16, "cpu"),
    "timm": ("(e) timm, eager, AMP NHWC", timm_amp, "any"),
    "ours_auto": ("ours, the faster of the two", ours_auto, "cuda"),
    "ours": ("ours, the default", ours, "any"),
    "ours_eager": ("ours, eager", ours_eager, "any"),
    "ours_compiled": ("ours, compiled", ours_compiled, "any"),
    "ours_openvino": ("ours, OpenVINO", ours_openvino, "cpu"),
    "ours_fp32": ("ours, the default, fp32", ours_fp32, "cpu"),
    "ours_eager_fp32": ("ours, eager, fp32", ours_eager_fp32, "cpu"),
}


def contend(name: str, folder: Path) -> None:
    """Answers each line of standard input with a line of JSON on standard output."""
    warnings.simplefilter("ignore")
    pixels = np.load(folder / "pixels.npy")
    run = CONTENDERS[name][1](folder, pixels)
    logits = getattr(run, "logits", run)()
    print(json.dumps({"ready": True}), flush=True)  # the first answer is ready
    np.save(folder / f"{name}.npy", logits)
    run()
    began = time.perf_counter()
    run()
    batches = getattr(run, "batches", 1)
    times = max(1, round(ROUND_S / (time.perf_counter() - began)))
    print(json.dumps({"settled": True}), flush=True)
    for _ in sys.stdin:
        began, cpu_began = time.perf_counter(), time.process_time()
        for _ in range(times):
            run()
        answer = {
            "seconds": (time.perf_counter() - began) / times / batches,
            "cpu_seconds": (time.process_time() - cpu_began) / times / batches,
            "memory": memory_bytes(),
        }
        print(json.dumps(answer), flush=True)


def memory_bytes() -> int:
    """The peak so far, of the GPU's memory if there is a GPU, otherwise of the process's."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    # Counts this program only: getrusage's ru_maxrss starts with its parent's value.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


if __name__ == "__main__":
    contend(sys.argv[1], Path(sys.argv[2]))
