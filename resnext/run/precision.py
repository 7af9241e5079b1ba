"""Chooses the device and the precision, once, when a classifier is loaded.

`amp` means fp16 on CUDA, bf16 on a CPU that has it in hardware, and otherwise fp32.
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
# torch's own check (mkldnn's bf16 support) is also true if AVX-512 emulates bf16, which is slower
# than fp32. These are the kernel's names for instructions that compute in bf16:
_AMX: Final = "amx_bf16"
_BF16_FLAGS: Final = frozenset({"avx512_bf16", _AMX})
_CPU_INFO: Final = Path("/proc/cpuinfo")
# The oldest driver by CUDA's major version. See NVIDIA's CUDA Compatibility, "Minor Version
# Compatibility".
_OLDEST_DRIVER: Final = {"12": 525, "13": 580}

logger = logging.getLogger(__name__)


def find_device(device: str) -> torch.device:
    """Returns the device for `auto` (CUDA if the machine has a GPU, otherwise the CPU), `cpu`,
    `cuda` or `cuda:N`.

    Raises:
        DeviceError: the name is none of these, this machine has no such device, or torch cannot use
            its GPU.
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
            f"Device {device!r} does not exist: torch sees {devices} CUDA devices. "
            "Check the driver with nvidia-smi, or choose cpu."
        )
    return torch.device("cuda", index)


def _unusable(gpus: str) -> str:
    """Explains why torch cannot use the GPUs that `describe_gpus` found, and what to do."""
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
    """Returns what `amp` or `fp32` means on this device. Also turns TF32 off for fp32."""
    if asked == "fp32":
        _turn_off_tf32()
        return "fp32"
    if device.type == "cuda":
        return "fp16"
    if computes_bf16():
        return "bf16"
    logger.info("This CPU has no bf16 in hardware, so amp means fp32 here.")
    _turn_off_tf32()
    return "fp32"


def computes_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware and torch uses that."""
    supported: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001  (no public one)
    return supported and not _BF16_FLAGS.isdisjoint(_cpu_flags())


@cache
def has_amx() -> bool:
    """Whether this CPU multiplies tiles of bf16. Each convolution of a network calls this."""
    return _AMX in _cpu_flags()


def _cpu_flags() -> frozenset[str]:
    """The kernel's names for this CPU's features. Empty if it does not list them."""
    if not _CPU_INFO.exists():
        return frozenset()
    lines = _CPU_INFO.read_text().splitlines()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())


def _turn_off_tf32() -> None:
    """Turns TF32 off. By default cuDNN's convolutions use it for fp32, with a mantissa of 10 bits.

    It first sets the old name as well: torch.export reads it, and fails if the new names disagree
    (torch.backends.cudnn.set_flags).
    """
    torch.backends.cudnn.allow_tf32 = False
    for operation in (torch.backends.cudnn.conv, torch.backends.cudnn.rnn):  # type: ignore[attr-defined]
        operation.fp32_precision = "ieee"  # type: ignore[union-attr]
    torch.backends.cuda.matmul.fp32_precision = "ieee"
