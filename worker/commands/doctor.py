"""`resnextq doctor`, the checks for a worker: sandbox, device, precision, engine, weights.

They download nothing and build no network. The other checks are in `producer.doctor`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from PIL import features

from contract.check import Check, State, guarded
from contract.cores import usable_cores
from contract.models import title_of
from contract.settings import PREFIX, Settings
from resnext.errors import DeviceError
from resnext.run.compiler import find_compiler, keep_compiled_in, missing_for_compiling
from resnext.run.nvidia import read_driver
from resnext.spec.catalogue import known_specs
from resnext.spec.model import RANDOM, LocalWeights, ModelSpec, PublishedWeights
from resnext.weights.pin import pin_file, read_pin
from worker.batch.model import find_model, telling_people
from worker.commands.layers import check_layers
from worker.loader.conditions import check_fetching
from worker.loader.fetch.object_store import environment
from worker.loader.sandbox.protections import find_out
from worker.pool.limits import ADVICE, permitted_share, told

if TYPE_CHECKING:  # torch takes seconds to load
    import torch

OLDEST_PILLOW: Final = 13
_ENGINES: Final = {"fastest": "the faster of eager and compiled"}
# On a busy machine, loading torch and reading weights take long.
PATIENCE_S: Final = 120.0
MEASURING_S: Final = 1800.0
"""We expect some minutes. Not measured on a GPU yet."""
_GET_OPENVINO: Final = "pip install '.[openvino]' in the project's folder"


def check_model(
    settings: Settings, *, measure: bool = False, light: bool = False
) -> Iterator[Check]:
    """Yields each check as soon as it is done.

    Args:
        settings: the worker's settings.
        measure: measure each way to compute each layer on the GPU, if that has not been done yet,
            and report the times.
        light: do not load torch, which takes seconds and hundreds of megabytes. The device's check
            then only reads NVIDIA's driver.
    """
    yield from guarded("sandbox", lambda: _protections(settings), within_s=PATIENCE_S)
    yield from guarded("limits", lambda: _limits(settings))
    yield from guarded("decoders", lambda: _decoders(settings))
    yield from guarded("resampler", _resampler)
    yield from guarded("fetching", lambda: check_fetching(settings))
    yield from guarded("object stores", lambda: _object_stores(settings))
    if light:
        yield from guarded("device", lambda: _driver(settings))
    else:
        yield from guarded("device", lambda: _computing(settings), within_s=PATIENCE_S)
        patience_s = MEASURING_S if measure else PATIENCE_S
        look = partial(_layers, settings, measure=measure)
        yield from guarded("layers", look, within_s=patience_s)
    yield from guarded("model", lambda: _served(settings), within_s=PATIENCE_S)
    for spec in known_specs().values():
        for name in spec.weights:
            if (settings.model, settings.weights) != (spec.name, name):
                look = partial(_known, settings, spec, name)
                yield from guarded("weights", look, within_s=PATIENCE_S)


def _protections(settings: Settings) -> Iterator[Check]:
    found = find_out(settings)
    if not found.possible:
        yield Check("sandbox", "ok", str(found))
    else:
        state: State = "failure" if settings.sandbox == "required" else "warning"
        yield Check("sandbox", state, str(found), found.advice)


def _limits(settings: Settings) -> Iterator[Check]:
    share, met = permitted_share(settings)
    if met:
        yield Check("limits", "warning", told(settings, share, met), ADVICE)
    else:
        found = f"{share.loaders} loaders with {share.fetches} fetches each are permitted"
        yield Check("limits", "ok", found)


def _decoders(settings: Settings) -> Iterator[Check]:
    found = version("pillow")
    if int(found.partition(".")[0]) < OLDEST_PILLOW:
        advice = f"Its decoders have known security holes: pip install 'pillow>={OLDEST_PILLOW}'"
        yield Check("decoders", "failure", f"Pillow {found}", advice)
        return
    turbo = features.version_feature("libjpeg_turbo")
    jpegs = f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {features.version_codec('jpg')}"
    found = f"Pillow {found}, which decodes JPEGs with {jpegs}"
    if settings.decode == "fast":
        found = (
            f"{found}; {PREFIX}DECODE=fast: torchvision {version('torchvision')} decodes most JPEGs"
        )
    yield Check("decoders", "ok", found)


def _resampler() -> Iterator[Check]:
    """Checks the extension in C. The pixels are the same without it."""
    try:
        import_module("resnext.picture._resample")
    except ImportError as error:
        found = (
            f"Pillow resizes, which takes longer, because the extension in C is missing: {error}"
        )
        advice = (
            "Install a C compiler (Debian: apt install gcc python3-dev), then reinstall this "
            "project."
        )
        yield Check("resampler", "warning", found, advice)
    else:
        yield Check("resampler", "ok", "the extension in C resizes")


def _object_stores(settings: Settings) -> Iterator[Check]:
    if not settings.object_stores:
        found = f"none enabled; {PREFIX}OBJECT_STORES enables s3 and gs"
        yield Check("object stores", "ok", found)
        return
    given = ", ".join(sorted(environment(settings))) or "no credentials"
    enabled = ", ".join(settings.object_stores)
    found = f"{PREFIX}OBJECT_STORES enables {enabled}; loaders get {given}"
    yield Check("object stores", "ok", found)


def _driver(settings: Settings) -> Iterator[Check]:
    """The device according to NVIDIA's driver. Whether torch can use it is not checked."""
    driver = read_driver()
    names = ", ".join(sorted({gpu.name for gpu in driver.gpus})) if driver else ""
    there = f"{len(driver.gpus)} GPUs ({names}), driver {driver.version}" if driver else "no GPU"
    found = (
        f"{PREFIX}DEVICE={settings.device}; {there}; --device also checks precision, engine and "
        "layers"
    )
    if settings.device.startswith("cuda") and not (driver and driver.gpus):
        advice = f"Install NVIDIA's driver, or set {PREFIX}DEVICE=auto."
        yield Check("device", "failure", found, advice)
    else:
        yield Check("device", "ok", found)


def _computing(settings: Settings) -> Iterator[Check]:
    import torch  # noqa: PLC0415  (takes seconds)

    from resnext.run.precision import find_device  # noqa: PLC0415  (the same)

    with telling_people():
        device = find_device(settings.device)
    name = _describe(device) if device.type == "cuda" else "no CUDA device in use"
    yield Check("device", "ok", f"{device} ({name}), torch {torch.__version__}")
    yield _precision(settings, device)
    yield _engine(settings, device)
    yield _batch(settings, device)
    yield _threads(settings, device)


def _layers(settings: Settings, *, measure: bool) -> Iterator[Check]:
    from resnext.run.precision import find_device  # noqa: PLC0415  (loads torch)

    with suppress(DeviceError):  # `_computing` reports it
        yield from check_layers(settings, find_device(settings.device), measure=measure)


def _describe(device: torch.device) -> str:
    import torch  # noqa: PLC0415  (takes seconds)

    gpu, driver = torch.cuda.get_device_properties(device), read_driver()
    others = f", {len(driver.gpus)} to choose from" if driver else ""
    return (
        f"{gpu.name}{others}, {gpu.total_memory / 2**30:.0f} GiB, compute capability "
        f"{gpu.major}.{gpu.minor}, driver {driver.version if driver else 'unknown'}"
    )


def _precision(settings: Settings, device: torch.device) -> Check:
    from resnext.run.precision import choose_precision  # noqa: PLC0415  (loads torch)

    if settings.precision == "fp32":
        return Check("precision", "ok", f"fp32, as set in {PREFIX}PRECISION")
    computed = choose_precision("amp", device)
    why = {
        "fp16": "it is a CUDA device",
        "bf16": "the CPU computes it in hardware",
        "fp32": "the CPU has no bf16 in hardware",
    }
    return Check("precision", "ok", f"amp means {computed} here: {why[computed]}")


def _engine(settings: Settings, device: torch.device) -> Check:
    from resnext.run.engine import (  # noqa: PLC0415  (loads torch)
        choose_engine,
        is_openvino_there,
        why_not_compiled,
    )

    keep_compiled_in(settings.cache)
    with telling_people():
        chosen = choose_engine(settings.engine, device)
    asked = "auto is" if settings.engine == "auto" else f"{PREFIX}ENGINE asks for"
    what = _ENGINES.get(chosen, chosen)
    found = f"{asked} {what} here; C compiler: {find_compiler(device.type) or 'none'}"
    missing = "; ".join(missing_for_compiling(device.type))
    if chosen == "compiled" and missing:
        advice = f"It will run uncompiled. Missing: {missing}. Or set {PREFIX}ENGINE=eager."
        return Check("engine", "warning", found, advice)
    if settings.engine == "auto" and chosen == "eager" and device.type == "cuda":
        advice = f"Compiling might be faster. Missing for it: {missing}." if missing else ""
        why = "; ".join(why_not_compiled(device))
        why = f"{found}; each layer uses the fastest way that needs no compiler; {why}"
        return Check("engine", "warning" if missing else "ok", why, advice)
    if chosen == "openvino" and not is_openvino_there():
        advice = f"{_GET_OPENVINO}, or set {PREFIX}ENGINE=auto."
        return Check("engine", "failure", f"{found}; OpenVINO is not installed", advice)
    if settings.engine == "auto" and chosen == "eager" and device.type == "cpu":
        found += f"; OpenVINO, which is faster, is not installed: {_GET_OPENVINO}"
    return Check("engine", "ok", found)


def _batch(settings: Settings, device: torch.device) -> Check:
    from resnext.run.gpu import choose_batch_images  # noqa: PLC0415  (loads torch)

    if settings.batch_images is not None:
        found = f"{settings.batch_images} images, as set in {PREFIX}BATCH_IMAGES"
    else:
        found = f"{choose_batch_images(device)} images, chosen for this device"
    return Check("batch", "ok", found)


def _threads(settings: Settings, device: torch.device) -> Check:
    cores = usable_cores()
    if settings.torch_threads is not None:
        found = f"{settings.torch_threads}, as set in {PREFIX}TORCH_THREADS; {cores} cores"
    elif device.type == "cuda":
        found = "1, because the GPU computes"
    else:
        found = f"{cores}, one per core; {settings.loaders} loaders run beside them at low priority"
    return Check("torch threads", "ok", found)


def _served(settings: Settings) -> Iterator[Check]:
    """Checks the weights that a worker with these settings would load."""
    spec = find_model(settings)
    if settings.weights in spec.weights:
        yield _published(settings, spec, settings.weights, served=True)
        return
    subject = f"{title_of(settings.model, settings.weights)}, in use"
    if settings.weights == RANDOM:
        advice = f"Set {PREFIX}WEIGHTS to {' or '.join(spec.weights)} for meaningful answers."
        yield Check("weights", "warning", f"{subject}: random numbers, not trained", advice)
    else:
        path = Path(settings.weights).expanduser().absolute()
        yield _local(subject, LocalWeights(path=path, licence="your own"), served=True)


def _known(settings: Settings, spec: ModelSpec, name: str) -> Iterator[Check]:
    yield _published(settings, spec, name, served=False)


def _published(settings: Settings, spec: ModelSpec, name: str, *, served: bool) -> Check:
    file = spec.weights[name]
    subject = f"{title_of(spec.name, name)}{', in use' if served else ''}"
    if isinstance(file, LocalWeights):
        return _local(subject, file, served=served)
    path = settings.cache / "weights" / file.file_name
    if path.exists():
        advice = "Delete the file. It is downloaded again when it is needed."
        return _compared(subject, file, path, advice, served=served)
    with telling_people():
        pinned = read_pin(path)
    found = f"{subject}: licence {file.licence}; not in the cache"
    found += "" if pinned is None else f"; an earlier use pinned SHA-256 {pinned}"
    advice = f"The first use downloads it from {file.address}" if served else ""
    return Check("weights", "warning" if served else "ok", found, advice)


def _local(subject: str, file: LocalWeights, *, served: bool) -> Check:
    if file.path.is_file():
        advice = "The file is damaged or not the right one. Replace it with the right file."
        return _compared(subject, file, file.path, advice, served=served)
    found = f"{subject}: licence {file.licence}; {file.path} does not exist"
    advice = f"Put the file there, or correct {PREFIX}WEIGHTS." if served else ""
    return Check("weights", "failure" if served else "warning", found, advice)


def _compared(
    subject: str, file: LocalWeights | PublishedWeights, path: Path, advice: str, *, served: bool
) -> Check:
    """Compares the file's hash with the published one, and with the one that the first use has
    pinned.
    """
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    found = f"{subject}: licence {file.licence}; {path}; SHA-256 {digest}"
    with telling_people():
        pinned = read_pin(path) if isinstance(file, PublishedWeights) else None
    if not digest.startswith(file.sha256 or ""):
        found = f"{found}, mismatch: the published SHA-256 is {file.sha256}"
        return Check("weights", "failure" if served else "warning", found, advice)
    if pinned not in {None, digest}:
        found = f"{found}, mismatch: the first use pinned {pinned}"
        advice += f" If you trust this file, delete {pin_file(path)} instead."
        return Check("weights", "failure" if served else "warning", found, advice)
    return Check("weights", "ok", f"{found}, {_certainty(file, pinned)}")


def _certainty(file: LocalWeights | PublishedWeights, pinned: str | None) -> str:
    """The known hashes with which the file's hash agrees."""
    known = [
        *(["as published"] if file.sha256 is not None else []),
        *(["as pinned by the first use"] if pinned is not None else []),
    ]
    if known:
        return f"checked: {' and '.join(known)}"
    pins = "; the next use pins it" if isinstance(file, PublishedWeights) else ""
    return f"unknown: there is no published hash to compare it with{pins}"
