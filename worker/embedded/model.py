"""Chooses the model that `up` serves: the one in the settings, or the bundled one.

The bundled one is for a machine that cannot download weights, so that `up` starts there as well.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from contract.settings import PREFIX, Settings
from resnext.errors import UnreachableWeights
from resnext.spec.catalogue import BUNDLED, find_spec
from resnext.spec.model import PublishedWeights
from resnext.weights.download import check_available


class Choice(NamedTuple):
    settings: Settings
    note: str
    """A sentence for the user, or an empty string."""


def choose_model(settings: Settings) -> Choice:
    """Takes a few seconds if a server does not answer.

    Keeps a model or weights that the user has set. If they cannot be loaded, the worker reports it.
    """
    if settings.model_fields_set & {"model", "weights"}:
        return Choice(settings, "")
    file = find_spec(settings.model).weights[settings.weights]
    if not isinstance(file, PublishedWeights):
        return Choice(settings, "")
    try:
        check_available(file, settings.cache / "weights")
    except UnreachableWeights as error:
        spec = find_spec(BUNDLED)
        bundled = {"model": spec.name, "weights": spec.weights_names[0]}
        note = (
            f"The weights of {settings.model} cannot be downloaded from "
            f"{urlsplit(file.address).hostname} ({error.reason}), so this serves the small model "
            f"that comes with the program, {spec.name}. To stop with an error instead, set "
            f"{PREFIX}MODEL={settings.model}."
        )
        return Choice(settings.model_copy(update=bundled), note)
    return Choice(settings, "")
