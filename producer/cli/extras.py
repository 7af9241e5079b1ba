"""Loads functions of packages that may not be installed."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from contract.errors import UnavailableError


def find(
    module: str, function: str, *, needs: str | None = None, extra: str = ""
) -> Callable[..., Any]:
    """Returns a function by the name of its module, so that the caller needs no extra itself.

    Raises:
        UnavailableError: the package `needs` is not installed.
    """
    if needs is not None and find_spec(needs) is None:
        raise UnavailableError(
            f"This command needs {needs}, which is not installed. "
            f"Install it with: pip install '.[{extra}]' in the project's folder"
        )
    found: Callable[..., Any] = getattr(import_module(module), function)
    return found
