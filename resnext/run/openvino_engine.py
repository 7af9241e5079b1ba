"""OpenVINO as the engine on a CPU. It is an extra, and `auto` uses it if it is installed.

The network is written as OpenVINO's own graph, layer by layer, because an export by torch takes
seconds. The graph is in float32; with bf16 OpenVINO rounds itself. The last layer is a separate
graph, computed in float32 as in every engine. It also runs in OpenVINO: after it, torch's threads
would spin for milliseconds on the cores that OpenVINO's threads need for the next picture.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from resnext.errors import EngineError
from resnext.network import Bottleneck, ResNeXt
from resnext.run.engine import PixelsToLogits, is_openvino_there
from resnext.run.precision import Precision

_HINTS: Final[dict[Precision, str]] = {"fp32": "f32", "bf16": "bf16"}
# Images per thread in a call. With more, the activations leave the caches. With fewer, a call is
# not worth its cost.
_IMAGES_A_THREAD: Final = 4


def convert(module: PixelsToLogits, crop: int, precision: Precision, threads: int) -> nn.Module:
    """Converts the module for OpenVINO, (N, crop, crop, 3) uint8 → (N, classes) float32.

    Args:
        module: the module in float32, with folded batch-norms.
        crop: the height and width of a picture, in pixels.
        precision: the precision of the convolutions.
        threads: the number of threads that share each layer.

    Raises:
        EngineError: OpenVINO is not installed, or does not run on this machine.
    """
    # OpenVINO's tools would import this, write into the user's home, and report to Google.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # not found
    try:
        import openvino  # noqa: PLC0415  (an extra)
    except ImportError as error:
        why = f"cannot be imported ({error})" if is_openvino_there() else "is not installed"
        raise EngineError(
            f"The engine 'openvino' needs OpenVINO, which {why}. "
            "Install it with: pip install '.[openvino]' in the project's folder, or choose another "
            "engine."
        ) from error
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        # Pinned threads would wait for loaders and workers that run on the same cores.
        "ENABLE_CPU_PINNING": False,
    }
    core, graph = openvino.Core(), _Graph()

    def compiled(model: Any, hint: str) -> Any:  # noqa: ANN401  (OpenVINO has no types)
        return core.compile_model(model, "CPU", options | {"INFERENCE_PRECISION_HINT": hint})

    try:
        body = compiled(graph.write_body(module, crop), _HINTS[precision])
        last = compiled(graph.write_last(module.network.fc), _HINTS["fp32"])
    except RuntimeError as error:
        raise EngineError(
            f"OpenVINO does not run the network on this machine: {' '.join(str(error).split())} "
            "Choose another engine."
        ) from error
    return _Converted(body, last, _IMAGES_A_THREAD * threads)


class _Converted(nn.Module):
    """(N, crop, crop, 3) uint8 → (N, classes) float32. Only one thread may use it at once."""

    def __init__(self, body: Any, last: Any, most: int) -> None:  # noqa: ANN401
        super().__init__()
        self._body = body.create_infer_request()
        self._last = last.create_infer_request()
        self._most = most

    def forward(self, pixels: Tensor) -> Tensor:
        pooled = [_infer(self._body, part.numpy()) for part in pixels.split(self._most)]
        return torch.from_numpy(_infer(self._last, np.concatenate(pooled)))


def _infer(request: Any, values: np.ndarray) -> np.ndarray:  # noqa: ANN401
    """Runs a graph. The first dimension of input and output is the pictures."""
    (output,) = request.infer([values], share_inputs=True, share_outputs=True).values()
    made: np.ndarray = output.copy()  # the next call reuses its memory
    return made


class _Graph:
    """Writes a network as two graphs of OpenVINO."""

    def __init__(self) -> None:
        from openvino import opset13  # noqa: PLC0415  (an extra)

        self._ops: Any = opset13

    def write_body(self, module: PixelsToLogits, crop: int) -> Any:  # noqa: ANN401  (has no types)
        """(N, crop, crop, 3) uint8 → (N, channels) float32: all layers except the last."""
        import openvino  # noqa: PLC0415  (an extra)

        ops = self._ops
        pixels = ops.parameter([-1, crop, crop, 3], np.uint8)
        x = ops.divide(ops.convert(pixels, "f32"), np.float32(255.0))
        x = ops.divide(ops.subtract(x, self._constant(module.mean)), self._constant(module.std))
        x = self._body(ops.transpose(x, np.array([0, 3, 1, 2])), module.network)
        return openvino.Model([ops.reduce_mean(x, np.array([2, 3]))], [pixels], "body")

    def write_last(self, layer: nn.Linear) -> Any:  # noqa: ANN401  (has no types)
        """(N, channels) float32 → (N, classes) float32"""
        import openvino  # noqa: PLC0415  (an extra)

        pooled = self._ops.parameter([-1, layer.in_features], np.float32)
        logits = self._ops.matmul(pooled, self._constant(layer.weight), False, True)  # noqa: FBT003
        logits = self._ops.add(logits, self._constant(layer.bias))
        return openvino.Model([logits], [pooled], "last")

    def _body(self, x: Any, network: ResNeXt) -> Any:  # noqa: ANN401  (has no types)
        x = self._ops.relu(self._convolution(x, network.conv1))
        if isinstance(pool := network.maxpool, nn.MaxPool2d):
            size, stride, padding = ([n, n] for n in (pool.kernel_size, pool.stride, pool.padding))
            x = self._ops.max_pool(x, stride, [1, 1], padding, padding, size).output(0)
        for name in network.stage_names:
            for block in getattr(network, name):
                x = self._block(x, block)
        return x

    def _block(self, x: Any, block: Bottleneck) -> Any:  # noqa: ANN401  (has no types)
        relu = self._ops.relu
        around = x
        if isinstance(block.downsample, nn.Sequential):
            around = self._convolution(x, block.downsample[0])
        x = relu(self._convolution(x, block.conv1))
        x = relu(self._convolution(x, block.conv2))
        return relu(self._ops.add(self._convolution(x, block.conv3), around))

    def _convolution(self, x: Any, layer: nn.Module) -> Any:  # noqa: ANN401  (has no types)
        assert isinstance(layer, nn.Conv2d)  # noqa: S101  (as in every block)
        assert layer.bias is not None  # noqa: S101  (from the folded batch-norm)
        stride, padding, dilation = map(list, (layer.stride, layer.padding, layer.dilation))
        weight, write = layer.weight, self._ops.convolution
        if layer.groups > 1:
            weight = weight.unflatten(0, (layer.groups, -1))
            write = self._ops.group_convolution
        x = write(x, self._constant(weight), stride, padding, padding, dilation)
        return self._ops.add(x, self._constant(layer.bias.view(1, -1, 1, 1)))

    def _constant(self, values: Tensor) -> Any:  # noqa: ANN401  (has no types)
        return self._ops.constant(values.detach().contiguous().numpy(), shared_memory=True)
