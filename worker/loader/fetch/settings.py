"""The settings for fetching. They are read once and sent to each loader."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from contract.errors import SettingsError

if TYPE_CHECKING:  # a loader starts without pydantic
    from contract.settings import Settings

T = TypeVar("T")

# A line in the file that RESNEXT_FETCH_HEADERS names: host, header, value.
_LINE: Final = re.compile(r"([A-Za-z0-9._-]+):[ \t]*([A-Za-z0-9_-]+):[ \t]*([ -~]*[!-~])")
# Headers that say how a request is sent. Users cannot set them.
_OURS: Final = frozenset(
    {"host", "connection", "content-length", "transfer-encoding", "accept-encoding", "te",
     "upgrade", "expect", "range"}
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FetchSettings:
    """Fields of `contract.settings.Settings`, which explains them, under the same names."""

    fetch_allow: tuple[str, ...]
    fetch_ports: tuple[int, ...]
    fetch_proxy: str | None
    fetch_headers: dict[str, tuple[str, ...]]
    """The headers in the file, as `Name: value`, by host."""
    file_roots: tuple[Path, ...]
    fetch_deadline_s: float
    max_image_bytes: int
    max_redirects: int
    robots: str
    contact: str
    object_stores: tuple[str, ...]
    object_store_access: str
    s3_endpoint: str | None
    gcs_endpoint: str | None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Takes the fields from the settings, and reads the file with headers.

        Raises:
            SettingsError: the file with headers cannot be read.
        """
        proxy, headers = settings.fetch_proxy, settings.fetch_headers
        values = values_of(cls, settings) | {
            "fetch_proxy": proxy and proxy.get_secret_value(),
            "fetch_headers": {} if headers is None else read_headers(headers),
        }
        return cls(**values)


def pick(kind: type[T], settings: Settings) -> T:
    """Makes a dataclass whose fields are settings with the same names."""
    return kind(**values_of(kind, settings))


def values_of(kind: type[Any], settings: Settings) -> dict[str, Any]:
    return {field.name: getattr(settings, field.name) for field in fields(kind)}


def read_headers(path: Path) -> dict[str, tuple[str, ...]]:
    """Reads headers by host from lines of the form `host: Name: value`.

    Raises:
        SettingsError: the file cannot be read, or a line is invalid. The message shows no values,
            because they are secrets.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"RESNEXT_FETCH_HEADERS is {path}, which cannot be read.") from error
    found: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None or match[2].lower() in _OURS:
            raise SettingsError(
                f"RESNEXT_FETCH_HEADERS: line {number} of {path} is not a header for a host. Write "
                "`host: Name: value`. Headers such as Host and Accept-Encoding cannot be set."
            )
        host = match[1].lower()
        found[host] = (*found.get(host, ()), f"{match[2]}: {match[3]}")
    return found
