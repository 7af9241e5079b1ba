"""Which device computes, and with how many bits: asked once, when a classifier is loaded.

`amp` is fp16 on CUDA, bf16 on a CPU that has it in hardware, else fp32.
"""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from typing import Final, Literal

import torch

from resnext.errors import DeviceError
from resnext.run.faults import first_line
from resnext.run.nvidia import are_hidden, describe_gpus

Precision = Literal["fp16", "bf16", "fp32"]

DTYPES: Final[dict[Precision, torch.dtype]] = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
}
# torch's own question (mkldnn's bf16 support) says yes as well where AVX-512 emulates it,
# which is slower than fp32. The kernel's names of the instructions that compute in bf16:
_AMX: Final = "amx_bf16"
_BF16_FLAGS: Final = frozenset({"avx512_bf16", _AMX})
_CPU_INFO: Final = Path("/proc/cpuinfo")
# By CUDA's major version: NVIDIA, CUDA Compatibility, "Minor Version Compatibility".
_OLDEST_DRIVER: Final = {"12": 525, "13": 580}

logger = logging.getLogger(__name__)


def find_device(device: str) -> torch.device:
    """`auto` (CUDA where the machine has a GPU, else the CPU), `cpu`, `cuda` or `cuda:N`.

    Raises:
        DeviceError: it is none of these, this machine has no such device, or it has a GPU that
            torch cannot use.
    """
    kind, _, number = device.partition(":")
    if device not in {"auto", "cpu"} and (kind != "cuda" or not (number or "0").isdigit()):
        raise DeviceError(f"Device {device!r} is not one of auto, cpu, cuda, cuda:N.")
    if device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available() and not are_hidden() and (gpus := describe_gpus()):
        raise DeviceError(_unusable(gpus))
    if device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    devices = torch.cuda.device_count()
    index = int(number or "0")
    if index >= devices:
        raise DeviceError(
            f"Device {device!r} is not there: torch sees {devices} CUDA devices. "
            "Check the driver with nvidia-smi, or choose cpu."
        )
    return torch.device("cuda", index)


def _unusable(gpus: str) -> str:
    """Why torch cannot use what `describe_gpus` has found, and what to do."""
    found = f"{gpus[0].upper()}{gpus[1:]}, but torch {torch.__version__}"
    cuda = torch.version.cuda
    if cuda is None:
        return f"{found} is built without CUDA. Install a torch with CUDA, or choose cpu."
    why = "CUDA does not start"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        why = first_line(error).rstrip(".")
    needed = _OLDEST_DRIVER.get(cuda.partition(".")[0])
    driver = f"CUDA {cuda} needs driver {needed} or newer. " if needed else ""
    return f"{found} cannot use it: {why}. {driver}Update the driver, or choose cpu."


def choose_precision(asked: str, device: torch.device) -> Precision:
    """What `amp` or `fp32` means on this device. With fp32, TF32 is off in this process."""
    if asked == "fp32":
        _turn_off_tf32()
        return "fp32"
    if device.type == "cuda":
        return "fp16"
    if computes_bf16():
        return "bf16"
    logger.info("This CPU has no bf16 in hardware; amp computes in fp32 here.")
    _turn_off_tf32()
    return "fp32"


def computes_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware and torch makes use of it."""
    supported: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001  (no public one)
    return supported and not _BF16_FLAGS.isdisjoint(_cpu_flags())


@cache
def has_amx() -> bool:
    """Whether this CPU multiplies tiles of bf16; each convolution of a network asks."""
    return _AMX in _cpu_flags()


def _cpu_flags() -> frozenset[str]:
    """The kernel's names of what this CPU can do; empty where it does not tell."""
    if not _CPU_INFO.exists():
        return frozenset()
    lines = _CPU_INFO.read_text().splitlines()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())


def _turn_off_tf32() -> None:
    """By default cuDNN's convolutions use it: 10 bits of mantissa under the name of fp32.

    By its old name as well, and first: torch.export asks for that, and fails where the new
    ones say something else (torch.backends.cudnn.set_flags).
    """
    torch.backends.cudnn.allow_tf32 = False
    for operation in (torch.backends.cudnn.conv, torch.backends.cudnn.rnn):  # type: ignore[attr-defined]
        operation.fp32_precision = "ieee"  # type: ignore[union-attr]
    torch.backends.cuda.matmul.fp32_precision = "ieee"
