"""What this home's `resnextq up` serves, for commands in other terminals.

`up` writes the file when it starts and removes it when it stops. `submit` reads it, so that a job
asks for the model that the worker has, even if `up` could not download the usual weights, and so
that the files that the worker may read are accepted without the same variables again.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from contract.secret_file import write_secret
from contract.settings import Settings

_MODEL: Final = ("model", "weights", "precision")
_PERMITTED: Final = ("file_roots", "fetch_ports", "object_stores")
"""What a worker may read and fetch. Each is a list in the file and a tuple in the settings."""


def note_served(settings: Settings) -> None:
    """Writes what a worker with these settings serves and may read.

    Raises:
        OSError: the file cannot be written.
    """
    served: dict[str, Any] = {name: getattr(settings, name) for name in _MODEL}
    served |= {name: getattr(settings, name) for name in _PERMITTED}
    served["file_roots"] = list(map(str, settings.file_roots))
    served |= {"database": settings.database(), "pid": os.getpid()}
    write_secret(settings.served_file, json.dumps(served))


def with_served(settings: Settings) -> Settings:
    """The settings, with those of this home's `up` for the model, files, ports and object stores.

    They stay unchanged if `up` does not run, or if it uses another database. What the user has set
    always stays; one who has set a model or weights has chosen both.
    """
    served, chosen = _read(settings), settings.model_fields_set
    names = _PERMITTED if chosen & {"model", "weights"} else (*_MODEL, *_PERMITTED)
    found = {name: served[name] for name in names if name in served and name not in chosen}
    for name in _PERMITTED:
        if name in found:
            found[name] = tuple(map(Path, found[name]) if name == "file_roots" else found[name])
    return settings.model_copy(update=found)


def model_of_up(settings: Settings) -> tuple[str, str, str] | None:
    """Model, weights and precision that this home's `up` serves, or will serve once its worker is
    ready. None: no `up` runs.
    """
    served = _read(settings)
    if not _runs(served):
        return None
    return served["model"], served["weights"], served["precision"]


def _runs(served: dict[str, Any]) -> bool:
    """Whether the `up` that wrote the file still runs. (If it is killed, the file stays.)"""
    try:
        os.kill(served["pid"], 0)
    except (KeyError, TypeError, OverflowError, OSError):
        return False
    return True


def _read(settings: Settings) -> dict[str, Any]:
    """The content of the file; empty if it is missing, unreadable or for another database."""
    with suppress(OSError, ValueError):  # ValueError: not JSON, or not UTF-8
        served = json.loads(settings.served_file.read_text(encoding="utf-8"))
        if isinstance(served, dict) and served.get("database") == settings.database():
            return served
    return {}
