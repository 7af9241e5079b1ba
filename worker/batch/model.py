"""The model of the settings, for every command that loads one: its spec, and its classifier.

`resnext` has errors of its own; here they become those that end a command with a message.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from contract.cores import usable_cores
from contract.errors import UnavailableError, UsageError, WeightsError
from contract.settings import PREFIX, Settings
from resnext import errors
from resnext.spec.catalogue import find_spec
from resnext.spec.model import ModelSpec
from worker.batch.device import choose_device
from worker.batch.download_progress import DownloadProgress

if TYPE_CHECKING:  # torch takes seconds to load, and mistakes are told before that
    from resnext.classifier import Classifier


@contextmanager
def telling_people() -> Iterator[None]:
    """
    Raises:
        WeightsError: the weights are missing, damaged, or of another network.
        UnavailableError: what an export needs is missing here.
        UsageError: there is no such model or device, or it cannot be exported there.
    """
    try:
        yield
    except errors.WeightsError as error:
        raise WeightsError(str(error)) from error
    except errors.ExportUnavailable as error:
        raise UnavailableError(str(error)) from error
    except errors.ModelError as error:
        raise UsageError(str(error)) from error


def find_model(settings: Settings) -> ModelSpec:
    """
    Raises:
        UsageError: there is no such model.
    """
    with telling_people():
        return find_spec(settings.model)


def load_classifier(settings: Settings, *, warm_up: bool = True) -> Classifier:
    """The classifier of the settings. With `warm_up`, every size of batch has been run; with a
    compiled network always, since that is when it is compiled.

    Raises:
        WeightsError: the weights are missing, damaged, or of another network.
        UsageError: there is no such model or device, or its memory is too small.
    """
    import torch  # noqa: PLC0415  (takes seconds, and mistakes are told before that)

    from resnext import classifier  # noqa: PLC0415  (the same)

    try:
        with telling_people(), DownloadProgress() as progress:
            loaded = classifier.load_classifier(
                settings.model,
                settings.weights,
                precision=settings.precision,
                device=choose_device(settings.device, settings.cache),
                engine=settings.engine,
                threads=settings.torch_threads,
                cores=usable_cores(),
                cache=settings.cache,
                batch_images=settings.batch_images,
                progress=progress,
            )
        if warm_up or loaded.engine == "compiled":
            loaded.warm_up()
    except torch.OutOfMemoryError as error:  # batches have been halved down to one image
        raise UsageError(
            f"The network does not fit into the memory of the device {settings.device!r} with "
            f"even one image: free some of it, or choose another with {PREFIX}DEVICE."
        ) from error
    return loaded
