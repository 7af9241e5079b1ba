"""Makes the module that runs a batch on a device: uint8 pixels in, float32 logits out.

The classifier passes a network with its weights, and gets one module with folded batch-norms, in
its precision and memory layout. The module runs as it is (`eager`, with fused convolutions), or
compiled by `torch.compile`, or the faster of both on a GPU (`fastest`), or on a CPU with OpenVINO
(`openvino_engine`).
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

# Each size of batch needs a compilation. By default torch gives up after 8.
_COMPILATIONS: Final = 64

logger = logging.getLogger(__name__)


class PixelsToLogits(nn.Module):
    """(N, crop, crop, 3) uint8 → (N, classes) float32.

    With uint8 only a quarter of the bytes go to the device. The arithmetic is that of torchvision's
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
        """The type of all layers except the last."""
        return self._dtype

    def forward(self, pixels: Tensor) -> Tensor:
        normal = ((pixels.float() / 255.0) - self.mean) / self.std
        logits: Tensor = self.network(normal.to(self._dtype).permute(0, 3, 1, 2))
        return logits.float()


def prepare(
    network: ResNeXt, preprocessing: Preprocessing, device: torch.device, precision: Precision
) -> PixelsToLogits:
    """Prepares the network for its device. This changes `network`."""
    fold_batch_norms(network)
    set_body_dtype(network, DTYPES[precision])
    network.requires_grad_(requires_grad=False)
    return PixelsToLogits(network, preprocessing, DTYPES[precision]).to(device).eval()


def fuse(module: PixelsToLogits, device: torch.device, crop: int) -> None:
    """Fuses convolutions with what follows them, for an eager run on a CPU. Does nothing elsewhere.

    Args:
        module: the module, which this changes.
        device: the module's device.
        crop: the height and width of a picture, in pixels.
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
    """Returns the same network for a GPU, with each layer computed in the fastest way. It shares
    the weights of the module, which does not change.

    Args:
        module: the module from `prepare`.
        preprocessing: the preprocessing of its pictures.
        device: a GPU.
        precision: the precision in which it computes.
        name: the network's name.
        cache: the folder for measurements. None: they are not kept.
    """
    return ChosenNetwork(
        module.network,
        choose_normalising(module.mean, module.std, module.dtype),
        preprocessing.crop,
        partial(make_chooser, network=name, device=device, precision=precision, cache=cache),
    )


def choose_engine(asked: Engine | Literal["auto"], device: torch.device) -> Engine:
    """Chooses the engine. On a GPU `auto` means the faster of eager and compiled, or eager if this
    machine cannot compile. On a CPU it means OpenVINO, which has less overhead between the layers,
    or eager if that is not installed.

    Raises:
        EngineError: the engine does not run on this device.
    """
    if asked == "openvino" and device.type != "cpu":
        raise EngineError(
            f"The engine 'openvino' runs on a CPU, not on {device}. Choose another engine."
        )
    if asked != "auto":
        return asked
    if device.type == "cpu":
        return "openvino" if is_openvino_there() else "eager"
    return "eager" if why_not_compiled(device) else "fastest"


def is_openvino_there() -> bool:
    """Whether OpenVINO is installed. It may still fail to import."""
    return find_spec("openvino") is not None


def why_not_compiled(device: torch.device) -> list[str]:
    """Returns why `auto` runs the network eagerly on this GPU, and what to do about it. Empty if it
    compiles.
    """
    if not is_for_triton(device):
        least = ".".join(map(str, TRITON_CAPABILITY))
        has = ".".join(map(str, torch.cuda.get_device_capability(device)))
        return [f"the compute capability is {has}, but Triton needs {least} or newer"]
    return missing_for_compiling(device.type)


def compile_module(module: nn.Module, device: torch.device) -> Forward:
    """Returns a module that is compiled when a size of batch first arrives. Without a compiler it
    fails only then.
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
        # The runner captures CUDA graphs, because torch's own are bound to one thread.
        options["triton.cudagraphs"] = False
        # Without tuning, a separate pass over its output follows each convolution. With tuning,
        # most 1x1 convolutions become products, which include bias and ReLU.
        options["max_autotune"] = is_worth_tuning(device)
    return options
