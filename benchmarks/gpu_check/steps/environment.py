"""Step 0: describes the machine, checks that torch can use its GPU, and measures the GPU's speed.

If the GPU is slower than an H200, the speed marks are scaled: `speed` reads these figures.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from benchmarks.gpu_check.report import Report
from benchmarks.gpu_check.step import Given
from benchmarks.rig.machine import machine
from resnext.run.compiler import missing_for_compiling
from resnext.run.nvidia import list_gpus, read_driver
from resnext.run.precision import find_device

COPY, PRODUCT = "copy", "product of matrices"
# An H200's figures. Below the second line, the GPU is busy or another model.
H200_COPY_TB_S, H200_PRODUCT_TFLOP_S = 4.3, 790.0
LEAST_COPY_TB_S, LEAST_PRODUCT_TFLOP_S = 4.0, 700.0
_COPIED_BYTES = 4 * 2**30
_SIDE = 8192
_ROUNDS = 10


def check(_: Given, report: Report) -> None:
    report.note("machine", text=machine())
    driver = read_driver()
    report.note("driver", text=driver.version if driver else "none")
    if not list_gpus():
        report.must("torch works", _works(torch.device("cpu")), "on the CPU; there is no GPU")
        return
    device = find_device("cuda")  # its error says what torch lacks
    report.must("torch works", _works(device), "on the GPU")
    _describe(device, report)
    missing = missing_for_compiling("cuda")
    report.note("compiling lacks", text="; ".join(missing) or "nothing")
    copied = _copied_tb_s(device)
    multiplied = _multiplied_tflop_s(device)
    report.note(COPY, copied, "TB/s")
    report.note(PRODUCT, multiplied, "TFLOP/s")
    if copied < LEAST_COPY_TB_S or multiplied < LEAST_PRODUCT_TFLOP_S:
        report.note("slower than an H200", text="so the marks of speed are scaled")


def _works(device: torch.device) -> bool:
    return bool((torch.ones(8, device=device) * 2).sum().item() == 16)


def _describe(device: torch.device, report: Report) -> None:
    gpu = torch.cuda.get_device_properties(device)
    report.note("CUDA", text=f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")
    report.note("compute capability", text=f"{gpu.major}.{gpu.minor}")
    report.note("multiprocessors", gpu.multi_processor_count)
    report.note("memory", gpu.total_memory / 2**30, "GiB")
    instances = [one for one in list_gpus() if one.uuid != one.whole]
    report.note("MIG", text=f"{len(instances)} instances" if instances else "off")
    report.note("compute mode", text="exclusive" if list_gpus()[0].exclusive else "shared")


def seconds_of(work: Callable[[], object], rounds: int = _ROUNDS) -> float:
    """The GPU's time for one call of `work`."""
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(rounds):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / rounds


def _copied_tb_s(device: torch.device) -> float:
    """Counts bytes read and written."""
    source = torch.zeros(_COPIED_BYTES, dtype=torch.uint8, device=device)
    into = torch.empty_like(source)
    return 2 * _COPIED_BYTES / seconds_of(lambda: into.copy_(source)) / 1e12


def _multiplied_tflop_s(device: torch.device) -> float:
    a, b = (torch.randn(_SIDE, _SIDE, device=device, dtype=torch.float16) for _ in range(2))
    return 2 * _SIDE**3 / seconds_of(lambda: a @ b) / 1e12
