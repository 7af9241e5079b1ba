"""The settings of fetching, as they travel: read once, sent to each loader, passed to its parts."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # a loader starts without pydantic
    from contract.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class FetchSettings:
    """The fields of `contract.settings.Settings` with the same names; they are explained there."""

    fetch_allow: tuple[str, ...]
    fetch_ports: tuple[int, ...]
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


def pick(kind: type[T], settings: Settings) -> T:
    """A dataclass whose fields are settings of the same names."""
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    values: dict[str, Any] = {name: getattr(settings, name) for name in names}
    return kind(**values)
