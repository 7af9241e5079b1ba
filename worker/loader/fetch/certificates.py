"""The certificate authorities that loaders trust: certifi's, or those that a variable names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import certifi

# The first variable that is set counts.
VARIABLES: Final = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")


def find_authorities() -> tuple[Path | None, Path | None]:
    """Returns a file of certificates, or a folder of certificates named by their hashes."""
    path = Path(named_by(*VARIABLES)[1] or certifi.where())
    return (None, path) if path.is_dir() else (path, None)


def named_by(*variables: str) -> tuple[str, str]:
    """Returns the first of these variables that is set, and its value; or two empty strings."""
    return next(((name, value) for name in variables if (value := os.environ.get(name))), ("", ""))
