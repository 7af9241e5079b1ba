"""A worker's classifier: it reports its GPU's name, and device errors are worded for people."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from contract.errors import UnavailableError, UsageError
from contract.settings import Settings
from tests.doubles.cuda import STICKY, Cuda, lanes_of, make_classifier
from worker.batch.device import Device
from worker.batch.model import load_classifier


@pytest.fixture
def settings(tmp_path: Path, monkeypatch) -> Settings:
    for variable in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setattr("worker.batch.model.choose_device", lambda *_: Device("cuda:0", "cuda:3"))
    return Settings(cache=tmp_path)


@pytest.fixture
def cuda(monkeypatch) -> Cuda:
    """The device that the classifier is loaded on."""
    cuda = Cuda()
    cuda.install(monkeypatch.setattr)
    monkeypatch.setattr(
        "resnext.classifier.load_classifier", lambda *_, **__: make_classifier(cuda)
    )
    return cuda


def test_the_classifier_is_warmed_up_and_reports_its_gpus_name(settings, cuda) -> None:
    """CUDA sees only that GPU, as cuda:0."""
    loaded = load_classifier(settings)
    assert loaded.device == "cuda:3"
    assert lanes_of(loaded) == [[1, 2, 4, 8]] * 2


def test_a_device_that_is_broken_from_the_start_is_reported(settings, cuda, monkeypatch) -> None:
    cuda.break_down()
    with pytest.raises(UnavailableError, match="The device is broken: CUDA error: device-side"):
        load_classifier(settings)

    def fail(*_: object, **__: object) -> None:
        raise torch.AcceleratorError(STICKY)

    monkeypatch.setattr("resnext.classifier.load_classifier", fail)
    with pytest.raises(UnavailableError, match="The device is broken: CUDA error: device-side"):
        load_classifier(settings)


def test_a_device_without_memory_for_one_image_is_reported(settings, cuda) -> None:
    def compute(_: int) -> None:
        raise torch.AcceleratorError("CUDA error: out of memory")

    cuda.on_compute = compute
    with pytest.raises(UsageError, match="or lower RESNEXT_BATCH_IMAGES"):
        load_classifier(settings)


ASKED = {("auto", True): "auto", ("auto", False): "eager", ("compiled", False): "compiled"}


@pytest.mark.parametrize(("engine", "warm_up"), ASKED)
def test_without_a_warm_up_auto_does_not_compile(
    settings, cuda, monkeypatch, engine, warm_up
) -> None:
    """`classify` must begin at once; a worker may take its time."""
    engines = []

    def load(*_: object, **options: str) -> object:
        engines.append(options["engine"])
        return make_classifier(cuda)

    monkeypatch.setattr("resnext.classifier.load_classifier", load)
    load_classifier(settings.model_copy(update={"engine": engine}), warm_up=warm_up)
    assert engines == [ASKED[engine, warm_up]]
