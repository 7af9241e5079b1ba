"""Convolutions with what follows them in one operator: the same answers as apart."""

from __future__ import annotations

import copy

import pytest
import torch

from resnext.network import build_network
from resnext.run.engine import PixelsToLogits, prepare
from resnext.run.fused import FusedBottleneck, are_fused_convolutions_there, fuse_convolutions
from resnext.spec.catalogue import BUNDLED, find_spec
from resnext.weights.random import draw_weights

SPEC = find_spec(BUNDLED)
CPU = torch.device("cpu")


def make_module(precision: str) -> PixelsToLogits:
    network = build_network(SPEC)
    draw_weights(network, SPEC)
    return prepare(network, SPEC.preprocessing, CPU, precision)


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (5, 32, 32, 3), generator=torch.Generator().manual_seed(3)).byte()


@pytest.mark.skipif(not are_fused_convolutions_there(), reason="this torch has no oneDNN")
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.02)])
def test_a_fused_network_gives_the_same_answers(precision, tolerance, pixels) -> None:
    plain = make_module(precision)
    fused = copy.deepcopy(plain)
    fuse_convolutions(fused.network)
    assert any(isinstance(part, FusedBottleneck) for part in fused.modules())
    with torch.inference_mode():
        expected = plain(pixels)
        found = fused(pixels)
        again = fused(pixels)
    assert ((found - expected).norm() / expected.norm()).item() < tolerance
    assert torch.equal(found, again), "a run leaves nothing behind"
