"""Loads the model in the settings, for every command that needs it: its spec or its classifier.

`resnext` has its own errors. Here they become errors that end a command with a message.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from contract.cores import usable_cores
from contract.errors import UnavailableError, UsageError, WeightsError
from contract.settings import PREFIX, Settings
from resnext import errors
from resnext.run.compiler import keep_compiled_in
from resnext.spec.catalogue import find_spec
from resnext.spec.model import ModelSpec
from worker.batch.device import choose_device
from worker.batch.download_progress import DownloadProgress

if TYPE_CHECKING:  # torch takes seconds to load; mistakes should be reported before that
    from resnext.classifier import Classifier


@contextmanager
def telling_people() -> Iterator[None]:
    """Turns errors of `resnext` into errors for people.

    Raises:
        WeightsError: the weights are missing, damaged, or of another network.
        UnavailableError: the device is broken, or something that an export needs is missing.
        UsageError: there is no such model or device, or it cannot be exported there.
    """
    try:
        yield
    except errors.DeviceBroken as error:
        raise UnavailableError(
            f"The device is broken: {error}. Check it with nvidia-smi, and start this again once "
            "it works."
        ) from error
    except errors.WeightsError as error:
        raise WeightsError(str(error)) from error
    except errors.ExportUnavailable as error:
        raise UnavailableError(str(error)) from error
    except errors.ModelError as error:
        raise UsageError(str(error)) from error


def find_model(settings: Settings) -> ModelSpec:
    """Returns the spec of the model in the settings.

    Raises:
        UsageError: there is no such model.
    """
    with telling_people():
        return find_spec(settings.model)


def load_classifier(settings: Settings, *, warm_up: bool = True) -> Classifier:
    """Loads the classifier in the settings. With `warm_up`, it has run every size of batch. It does
    so for a compiled network in any case, because that compiles it. Without `warm_up`, `auto` does
    not compile.

    Raises:
        WeightsError: the weights are missing, damaged, or of another network.
        UnavailableError: the device is broken.
        UsageError: there is no such model or device, or its memory is too small.
    """
    keep_compiled_in(settings.cache)
    with _telling_of_the_device(settings), telling_people(), DownloadProgress() as progress:
        chosen = choose_device(settings.device, settings.cache)

        from resnext import classifier  # noqa: PLC0415  (torch takes seconds)

        loaded = classifier.load_classifier(
            settings.model,
            settings.weights,
            precision=settings.precision,
            device=chosen.device,
            engine="eager" if settings.engine == "auto" and not warm_up else settings.engine,
            threads=settings.torch_threads,
            cores=usable_cores(),
            cache=settings.cache,
            batch_images=settings.batch_images,
            progress=progress,
        )
        loaded.device = chosen.name or loaded.device
    if warm_up or loaded.engine == "compiled":
        with _telling_of_the_device(settings), telling_people():
            loaded.warm_up()
    return loaded


@contextmanager
def _telling_of_the_device(settings: Settings) -> Iterator[None]:
    """Turns errors of the device into errors for people.

    Raises:
        UnavailableError: the device is broken.
        UsageError: its memory is too small.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        from resnext.run.faults import first_line, is_broken, is_out_of_memory  # noqa: PLC0415

        if is_broken(error):
            with telling_people():
                raise errors.DeviceBroken(first_line(error)) from error
        if not is_out_of_memory(error):
            raise
        # Batches were halved down to one image, or already the memory for batches is too large.
        raise UsageError(
            f"The network does not fit into the memory of the device {settings.device!r}, even "
            f"with batches of one image. Free some memory, choose another device with "
            f"{PREFIX}DEVICE, or lower {PREFIX}BATCH_IMAGES."
        ) from error
