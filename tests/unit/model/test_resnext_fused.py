"""Convolutions fused with the operators after them give the same answers as separate ones."""

from __future__ import annotations

import copy
import dataclasses
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest
import torch

from resnext.network import ResNeXt, build_network
from resnext.run.engine import PixelsToLogits, prepare
from resnext.run.fused import FusedBottleneck, are_fused_convolutions_there, fuse_convolutions
from resnext.run.precision import Precision, has_amx
from resnext.spec.catalogue import BUNDLED, find_spec
from resnext.spec.model import ModelSpec
from resnext.weights.random import draw_weights

pytestmark = pytest.mark.skipif(
    not are_fused_convolutions_there(), reason="this torch has no oneDNN"
)

SMALL = find_spec(BUNDLED)
CPU = torch.device("cpu")
# An ImageNet stem, and odd sizes in every stage.
ODD = dataclasses.replace(
    find_spec("resnext50_32x4d"),
    name="odd",
    depths=(1, 2, 1),
    cardinality=3,
    width_per_group=5,
    stage_channels=(24, 40, 56),
    stem_channels=12,
    preprocessing=dataclasses.replace(SMALL.preprocessing, crop=75),
)
SPECS = {spec.name: spec for spec in (SMALL, ODD)}


@cache
def draw_network(name: str) -> ResNeXt:
    spec = SPECS[name]
    network = build_network(spec)
    draw_weights(network, spec)
    return network


def make_module(spec: ModelSpec, precision: Precision) -> PixelsToLogits:
    network = copy.deepcopy(draw_network(spec.name))
    return prepare(network, spec.preprocessing, CPU, precision)


def make_pixels(spec: ModelSpec, n: int) -> torch.Tensor:
    crop = spec.preprocessing.crop
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (n, crop, crop, 3), generator=generator).byte()


@pytest.mark.parametrize("images", [1, 5, 8, 33])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.02)])
@pytest.mark.parametrize("spec", [SMALL, ODD], ids=lambda spec: spec.name)
def test_a_fused_network_gives_the_same_answers(spec, precision, tolerance, images) -> None:
    plain = make_module(spec, precision)
    fused = copy.deepcopy(plain)
    fuse_convolutions(fused.network, spec.preprocessing.crop)
    assert any(isinstance(part, FusedBottleneck) for part in fused.modules())
    pixels = make_pixels(spec, images)
    with torch.inference_mode():
        expected = plain(pixels)
        found = fused(pixels)
        again = fused(pixels)
    assert ((found - expected).norm() / expected.norm()).item() < tolerance
    assert torch.equal(found, again), "a run leaves nothing behind"


def test_threads_that_share_a_network_get_the_same_answers() -> None:
    fused = make_module(SMALL, "fp32")
    fuse_convolutions(fused.network, SMALL.preprocessing.crop)
    pixels = make_pixels(SMALL, 4)

    def compute(_: int) -> torch.Tensor:
        with torch.inference_mode():
            return fused(pixels)

    with ThreadPoolExecutor(3) as pool:
        first, *others = pool.map(compute, range(6))
    for other in others:
        assert torch.allclose(first, other, atol=1e-5)


@pytest.mark.skipif(not has_amx(), reason="weights are packed only for AMX")
@pytest.mark.parametrize("images", [2, 5, 8])
@pytest.mark.parametrize("spec", [SMALL, ODD], ids=lambda spec: spec.name)
def test_running_packs_no_weights_again(spec, images: int) -> None:
    """Each oneDNN call prints a line; a layout that oneDNN does not want shows as a reorder."""
    kinds = [call[0] for call in calls_of(f"""
spec = of["SPECS"][{spec.name!r}]
module = of["make_module"](spec, "bf16")
of["fuse_convolutions"](module.network, spec.preprocessing.crop)
x = of["make_pixels"](spec, {images})
""")]  # fmt: skip
    assert "convolution" in kinds
    assert "reorder" not in kinds


@pytest.mark.parametrize("images", [1, 2, 3, 8])
def test_in_float32_packed_weights_are_not_reordered(images: int) -> None:
    """In oneDNN it is slow to reorder weights from one packed layout to another."""
    calls = calls_of(f"""
conv = torch.nn.Conv2d(1024, 1024, 1).requires_grad_(False)
from resnext.run.fused import FusedConv
module = FusedConv(conv.to(memory_format=torch.channels_last), 14, activation="relu")
x = torch.rand({images}, 1024, 14, 14).to(memory_format=torch.channels_last)
torch.set_num_threads(2)
""")
    assert [kind for kind, _ in calls].count("convolution") == 1
    assert ("reorder", "simple:any") not in calls


def calls_of(program: str) -> list[tuple[str, str]]:
    """Returns each oneDNN call in `module(x)`: its kind and its implementation.

    The program must define `module` and `x`.
    """
    program = f"""
import runpy, torch
of = runpy.run_path({__file__!r})
{program}
print("it runs", flush=True)
with torch.inference_mode():
    module(x)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"ONEDNN_VERBOSE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.partition("it runs")[2].splitlines()
    fields = [line.split(",") for line in lines if ",exec," in line]
    starts = [call.index("exec") for call in fields]
    return [(call[at + 2], call[at + 3]) for call, at in zip(fields, starts, strict=True)]
