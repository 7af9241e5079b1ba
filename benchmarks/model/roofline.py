"""Computes how fast ResNeXt101-32x4d could be on a device at best, layer by layer.

    python -m benchmarks.model.roofline [--memory-tb-s 4.3] [--compute-tflop-s 790] [--batch 256]

Each convolution with its batch-norm and ReLU (and its addition, if any) counts as one kernel that
reads its input and its weights once and writes its output once, in 2-byte numbers. It takes as long
as its memory traffic or its arithmetic, whichever is longer. The defaults were measured on an
NVIDIA H200. Prints a table and the images/s.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from resnext.network import Bottleneck, build_network
from resnext.spec.catalogue import find_spec

BYTES = 2


@dataclass(frozen=True)
class Layer:
    name: str
    macs: int  # per image
    activations: int  # read and written, per image
    weights: int

    def bytes(self, batch: int) -> float:
        """Bytes per image; the weights are read once per batch."""
        return BYTES * (self.activations + self.weights / batch)

    def seconds(self, batch: int, bytes_a_s: float, flops_a_s: float) -> float:
        return max(self.bytes(batch) / bytes_a_s, 2 * self.macs / flops_a_s)


def count_layers() -> list[Layer]:
    """Counts the work of every convolution, the pools and the last layer for one image."""
    spec = find_spec("resnext101_32x4d")
    network = build_network(spec)
    layers: list[Layer] = []
    with_addition = {module.conv3 for module in network.modules() if isinstance(module, Bottleneck)}
    names = {module: name for name, module in network.named_modules()}

    def note(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        weights = sum(parameter.numel() for parameter in module.parameters())
        read = inputs[0].numel() + (output.numel() if module in with_addition else 0)
        macs = 0
        if isinstance(module, nn.Conv2d):
            macs = output.numel() * module.weight[0].numel()
        if isinstance(module, nn.Linear):
            macs = module.weight.numel()
        layers.append(Layer(names[module], macs, read + output.numel(), weights))

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.MaxPool2d | nn.AdaptiveAvgPool2d):
            module.register_forward_hook(note)
    crop = spec.preprocessing.crop
    network(torch.empty(1, 3, crop, crop, device="meta"))
    return layers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory-tb-s", type=float, default=4.3)
    parser.add_argument("--compute-tflop-s", type=float, default=790.0)
    parser.add_argument("--batch", type=int, default=256)
    chosen = parser.parse_args()
    layers = count_layers()
    table = Table("layer", "MMAC", "MB", "µs", "bound by")
    total = 0.0
    for layer in layers:
        seconds = layer.seconds(
            chosen.batch, chosen.memory_tb_s * 1e12, chosen.compute_tflop_s * 1e12
        )
        total += seconds
        computes = 2 * layer.macs / (chosen.compute_tflop_s * 1e12) >= seconds
        table.add_row(
            layer.name,
            f"{layer.macs / 1e6:.1f}",
            f"{layer.bytes(chosen.batch) / 1e6:.2f}",
            f"{seconds * 1e6:.3f}",
            "arithmetic" if computes else "memory",
        )
    Console().print(table)
    macs = sum(layer.macs for layer in layers)
    traffic = sum(layer.bytes(chosen.batch) for layer in layers)
    grouped = sum(layer.macs for layer in layers if layer.name.endswith("conv2"))
    print(
        f"{macs / 1e9:.3f} GMAC and {traffic / 1e6:.0f} MB per image; grouped convolutions "
        f"{grouped / macs:.0%} of the arithmetic; at best {1 / total:,.0f} images/s"
    )


if __name__ == "__main__":
    main()
