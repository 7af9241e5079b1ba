"""A loader's environment: its variables, and the files that it may read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from contract.settings import Settings
from worker.loader.conditions import require_conditions
from worker.loader.fetch import object_store

# A loader gets only these of our variables, because the others may hold secrets.
KEPT_VARIABLES: Final = frozenset(
    {"PATH", "LANG", "LC_ALL", "TZ", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR",
     "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "RES_OPTIONS"}
)  # fmt: skip
# Each of glibc's arenas takes 64 MiB of address space, which is limited for a loader. It decodes
# one image at once, so its threads rarely wait for each other's allocations. If torch is loaded,
# numpy's threads would start before the sandbox.
ADDED_VARIABLES: Final = {"MALLOC_ARENA_MAX": "2", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class LoaderEnvironment:
    """The environment of all loaders of a pool."""

    variables: dict[str, str]
    readable: tuple[Path, ...] | None
    """The paths that it may read besides its libraries; None if there is no sandbox."""

    @classmethod
    def of(cls, settings: Settings, named: Iterable[Path]) -> Self:
        """
        Args:
            settings: the settings for the sandbox, files and object stores.
            named: further paths that may be read.

        Raises:
            UsageError: an object store is enabled but not installed.
            UnavailableError: nothing could be fetched, or nothing over TLS.
        """
        require_conditions(settings)
        kept = {name: value for name, value in os.environ.items() if name in KEPT_VARIABLES}
        credentials = object_store.environment(settings)
        variables = kept | credentials | ADDED_VARIABLES
        if settings.sandbox == "off":
            return cls(variables, None)
        files = object_store.credential_files(credentials)
        return cls(variables, (*settings.file_roots, *named, *files))
