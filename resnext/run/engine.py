"""What runs a batch: uint8 pixels in, float32 logits out, on the device, as fast as it can.

The classifier hands in a network with its weights; what comes out is one module, folded, in
its precision and memory layout, and either run as it is (`eager`; on a CPU with fused
convolutions), compiled by `torch.compile`, or on a CPU run by OpenVINO (`openvino_engine`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from resnext.errors import EngineError
from resnext.network import ResNeXt, fold_batch_norms, set_body_dtype
from resnext.picture.preprocess import Preprocessing
from resnext.run.compiler import missing_for_compiling
from resnext.run.fused import are_fused_convolutions_there, fuse_convolutions
from resnext.run.gpu import TRITON_CAPABILITY, is_for_triton, is_worth_tuning
from resnext.run.precision import DTYPES, Precision

Engine = Literal["eager", "compiled", "openvino"]

Forward = Callable[[Tensor], Tensor]

# One compilation for each size of batch that is served; torch gives up after 8.
_COMPILATIONS: Final = 64

logger = logging.getLogger(__name__)


class PixelsToLogits(nn.Module):
    """(N, crop, crop, 3) uint8 → (N, classes) float32.

    A quarter of the bytes travels to the device; the arithmetic is that of torchvision's
    ToTensor and Normalize, in float32.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: ResNeXt, preprocessing: Preprocessing, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self._dtype = dtype
        self.register_buffer("mean", torch.tensor(preprocessing.mean), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        normal = ((pixels.float() / 255.0) - self.mean) / self.std
        logits: Tensor = self.network(normal.to(self._dtype).permute(0, 3, 1, 2))
        return logits.float()


def prepare(
    network: ResNeXt, preprocessing: Preprocessing, device: torch.device, precision: Precision
) -> PixelsToLogits:
    """The network, which is changed, ready to run on its device."""
    fold_batch_norms(network)
    set_body_dtype(network, DTYPES[precision])
    network.requires_grad_(requires_grad=False)
    return PixelsToLogits(network, preprocessing, DTYPES[precision]).to(device).eval()


def fuse(module: PixelsToLogits, device: torch.device, crop: int) -> None:
    """Fuses what an eager run on a CPU leaves apart; elsewhere nothing is done.

    Args:
        module: which is changed.
        device: that it is on.
        crop: height and width of a picture, in pixels.
    """
    if device.type == "cpu" and are_fused_convolutions_there():
        fuse_convolutions(module.network, crop)


def choose_engine(asked: Engine | Literal["auto"], device: torch.device) -> Engine:
    """`auto`: compiled on a GPU where this machine can, since each pass over memory that compiling
    saves is time; on a CPU OpenVINO where it is installed, which spends less between the layers;
    else eager, with fused convolutions.

    Raises:
        EngineError: the engine does not run on this device.
    """
    if asked == "openvino" and device.type != "cpu":
        raise EngineError(f"The engine 'openvino' runs on a CPU, not on {device}: take another.")
    if asked != "auto":
        return asked
    if device.type == "cpu":
        return "openvino" if is_openvino_there() else "eager"
    return "eager" if why_not_compiled(device) else "compiled"


def is_openvino_there() -> bool:
    """Whether it is installed; whether it can be imported shows when it is."""
    return find_spec("openvino") is not None


def why_not_compiled(device: torch.device) -> list[str]:
    """Why `auto` runs the network eagerly on this GPU, each with what to do; empty where it
    compiles.
    """
    if not is_for_triton(device):
        least = ".".join(map(str, TRITON_CAPABILITY))
        has = ".".join(map(str, torch.cuda.get_device_capability(device)))
        return [f"compute capability {has}: Triton compiles for {least} and newer"]
    return missing_for_compiling(device.type)


def compile_module(module: nn.Module, device: torch.device) -> Forward:
    """Compiled anew for each size of batch, when it first comes; that is when it fails where
    there is no compiler.
    """
    torch._dynamo.config.recompile_limit = max(  # noqa: SLF001  (documented so)
        torch._dynamo.config.recompile_limit,  # noqa: SLF001
        _COMPILATIONS,
    )
    compiled: Forward = torch.compile(module, dynamic=False, options=_options(device))
    return compiled


def _options(device: torch.device) -> dict[str, Any]:
    options: dict[str, Any] = {"freezing": True}
    if device.type == "cuda":
        # CUDA graphs are captured by the runner: torch's own are bound to one thread.
        options["triton.cudagraphs"] = False
        # Untuned, each of the convolutions is followed by a pass of its own over its output; tuned,
        # most of the 1x1 ones become products, which take bias and ReLU along.
        options["max_autotune"] = is_worth_tuning(device)
    return options
