"""What runs a batch: uint8 pixels in, float32 logits out, on the device, as fast as it can.

The classifier hands in a network with its weights; what comes out is one module, folded, in
its precision and memory layout. It is either run as it is (`eager`; with fused convolutions), or
compiled by `torch.compile`, or the faster of both on a GPU (`fastest`), or on a CPU run by
OpenVINO (`openvino_engine`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from resnext.errors import EngineError
from resnext.network import ResNeXt, fold_batch_norms, set_body_dtype
from resnext.picture.preprocess import Preprocessing
from resnext.run.compiler import missing_for_compiling
from resnext.run.fused import are_fused_convolutions_there, fuse_convolutions
from resnext.run.gpu import TRITON_CAPABILITY, is_for_triton, is_worth_tuning
from resnext.run.layers.make import make_chooser
from resnext.run.layers.network import ChosenNetwork
from resnext.run.layers.pixels import choose_normalising
from resnext.run.precision import DTYPES, Precision

Engine = Literal["eager", "compiled", "fastest", "openvino"]

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

    @property
    def dtype(self) -> torch.dtype:
        """Of all but the last layer."""
        return self._dtype

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


def choose_layers(  # noqa: PLR0913  (what is measured, on what, and where it is kept)
    module: PixelsToLogits,
    preprocessing: Preprocessing,
    device: torch.device,
    precision: Precision,
    *,
    name: str,
    cache: Path | None,
) -> ChosenNetwork:
    """The same network on a GPU, each of its layers computed in the way that is fastest there. It
    shares the weights of the module, which stays as it is.

    Args:
        module: from `prepare`.
        preprocessing: what its pictures have gone through.
        device: a GPU.
        precision: what is computed in.
        name: of the network.
        cache: the folder in which is kept what was measured; None: nothing is.
    """
    return ChosenNetwork(
        module.network,
        choose_normalising(module.mean, module.std, module.dtype),
        preprocessing.crop,
        partial(make_chooser, network=name, device=device, precision=precision, cache=cache),
    )


def choose_engine(asked: Engine | Literal["auto"], device: torch.device) -> Engine:
    """`auto`: on a GPU the faster of eager and compiled, eager where this machine cannot compile;
    on a CPU OpenVINO where it is installed, which spends less between the layers, else eager.

    Raises:
        EngineError: the engine does not run on this device.
    """
    if asked == "openvino" and device.type != "cpu":
        raise EngineError(f"The engine 'openvino' runs on a CPU, not on {device}: take another.")
    if asked != "auto":
        return asked
    if device.type == "cpu":
        return "openvino" if is_openvino_there() else "eager"
    return "eager" if why_not_compiled(device) else "fastest"


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
