"""`resnextq doctor`: how a GPU computes each layer of the network, and which ways were tried.

Without `--device` it reads what a worker has measured. With it, it measures what is missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from contract.check import Check
from contract.settings import PREFIX, Settings
from worker.batch.model import find_model, telling_people

if TYPE_CHECKING:  # torch takes seconds to load
    import torch

    from resnext.run.layers.choice import Candidate, Choice
    from resnext.run.layers.choose import Chooser

NAME = "layers"


def check_layers(settings: Settings, device: torch.device, *, measure: bool) -> Iterator[Check]:
    """Yields a line for each size of batch. With `measure`, also one per layer of the largest."""
    if device.type != "cuda":
        if measure:
            yield Check(NAME, "ok", "nothing to measure on a CPU: oneDNN computes the layers")
        return
    if settings.engine == "compiled" and not measure:  # then no ways are chosen
        return
    from resnext.classifier import batch_sizes  # noqa: PLC0415  (loads torch)
    from resnext.run.gpu import choose_batch_images  # noqa: PLC0415

    chooser = _chooser(settings, device)
    sizes = batch_sizes(settings.batch_images or choose_batch_images(device))
    for images in reversed(sizes):
        choices, fault = _choose(chooser, images, measure=measure)
        if choices is None:
            yield _unknown(images, fault)
            continue
        network = chooser.find_network(images)
        yield Check(NAME, "ok", _summary(images, choices, network))
        if measure and images == sizes[-1]:
            yield from (Check(NAME, "ok", _told(choice)) for choice in choices)
    yield Check(NAME, "ok", f"kept in {chooser.store.path}; delete this file to measure again")


def _chooser(settings: Settings, device: torch.device) -> Chooser:
    from resnext.network import build_network  # noqa: PLC0415  (loads torch)
    from resnext.run.layers.make import make_chooser  # noqa: PLC0415
    from resnext.run.layers.network import count_shapes  # noqa: PLC0415
    from resnext.run.precision import choose_precision  # noqa: PLC0415

    spec = find_model(settings)
    return make_chooser(
        count_shapes(build_network(spec), spec.preprocessing.crop),
        network=spec.name,
        device=device,
        precision=choose_precision(settings.precision, device),
        cache=settings.cache,
    )


def _choose(
    chooser: Chooser, images: int, *, measure: bool
) -> tuple[list[Choice] | None, Exception | None]:
    """Returns the choices. If they are not known and cannot be measured: None, and the error."""
    import torch  # noqa: PLC0415  (takes seconds)

    if not measure:
        return chooser.known(images), None
    try:
        with telling_people(), torch.inference_mode():
            return chooser.choose(images), None
    except RuntimeError as error:  # including out of memory
        return None, error


def _unknown(images: int, fault: Exception | None) -> Check:
    if fault is not None:
        advice = f"A worker will use smaller batches. {PREFIX}BATCH_IMAGES sets their size."
        return Check(NAME, "warning", f"batches of {images}: {fault}", advice)
    found = f"batches of {images} are not measured yet; a worker measures them at its first start"
    return Check(NAME, "ok", found, "To measure them now: resnextq doctor --device")


def _summary(images: int, choices: list[Choice], network: Choice | None) -> str:
    """The number of layers per way, and their time; also the compiled network, if it was tried."""
    counts, seconds = Counter[str](), 0.0
    for choice in choices:
        if choice.chosen is not None:
            counts[choice.chosen.name] += choice.times
            seconds += (choice.chosen.seconds or 0.0) * choice.times
    ways = ", ".join(f"{name} {count}" for name, count in counts.most_common())
    found = f"batches of {images}: {counts.total()} layers, {_time(seconds)} in all: {ways}"
    return found if network is None else f"{found}; {_told(network)}"


def _told(choice: Choice) -> str:
    """`23 x 1x1, 512 to 1024 channels, ...: cudnn 0.123 ms; triton left out: why`"""
    ranked = sorted(choice.candidates, key=lambda one: (one.fault is not None, one.seconds or 0.0))
    return f"{choice.times} x {choice.subject}: {'; '.join(map(_figures, ranked))}"


def _figures(candidate: Candidate) -> str:
    if candidate.fault is not None or candidate.seconds is None:
        return f"{candidate.name} left out: {candidate.fault}"
    error = "" if candidate.error is None else f" (error {candidate.error:.0e})"
    return f"{candidate.name} {_time(candidate.seconds)}{error}"


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.3f} ms"
