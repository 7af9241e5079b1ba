"""The authorities that loaders trust: certifi's, or those that the environment names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import certifi

# The first that is set counts.
VARIABLES: Final = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")


def find_authorities() -> tuple[Path | None, Path | None]:
    """A file of certificates, or else a folder of them with hashes for names."""
    path = Path(named_by(*VARIABLES)[1] or certifi.where())
    return (None, path) if path.is_dir() else (path, None)


def named_by(*variables: str) -> tuple[str, str]:
    """The first of these variables that is set, and its value; both empty if none is."""
    return next(((name, value) for name in variables if (value := os.environ.get(name))), ("", ""))
