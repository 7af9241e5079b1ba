"""OpenVINO as the engine on a CPU: an extra, for who wants the last of its speed.

`engine` asks for it by name alone. The network is handed over in float32; with bf16 OpenVINO
rounds by itself, the last layer included.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from resnext.errors import EngineError
from resnext.run.precision import Precision

_HINTS: Final[dict[Precision, str]] = {"fp32": "f32", "bf16": "bf16"}


def convert(module: nn.Module, crop: int, precision: Precision, threads: int) -> nn.Module:
    """The module, (N, crop, crop, 3) uint8 → (N, classes) float32, as OpenVINO runs it.

    Raises:
        EngineError: OpenVINO is not installed.
    """
    try:
        import openvino  # noqa: PLC0415  (an extra)
    except ImportError as error:
        raise EngineError(
            "The engine 'openvino' needs OpenVINO, which is not installed. "
            "Install it with: pip install 'resnext-queue[openvino]', or take another engine."
        ) from error
    example = torch.zeros(2, crop, crop, 3, dtype=torch.uint8)
    exported = torch.export.export(
        module, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},)
    )
    compiled = openvino.Core().compile_model(
        openvino.convert_model(exported),
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
        },
    )
    return _Converted(compiled)


class _Converted(nn.Module):
    def __init__(self, compiled: object) -> None:
        super().__init__()
        self._compiled = compiled

    def forward(self, pixels: Tensor) -> Tensor:
        (logits,) = self._compiled(pixels.numpy()).values()  # type: ignore[operator]
        return torch.from_numpy(logits.copy())  # its memory is the next run's as well
