"""What a loader is told at its start: everything arrives as it was."""

from __future__ import annotations

from pathlib import Path

from contract.settings import Settings
from resnext.spec.catalogue import find_spec
from worker.loader.config import LoaderConfig


def test_a_loader_is_told_what_the_settings_say() -> None:
    settings = Settings(
        fetch_allow=("images.internal", "10.0.0.0/8"),
        fetch_ports=(80, 443),
        file_roots=(Path("/data"),),
        robots="ignore",
        contact="mailto:me@example.org",
        max_redirects=2,
        orientation="exif",
    )
    config = LoaderConfig.of(settings, find_spec("resnext29_cifar10").preprocessing)
    assert LoaderConfig.decode(config.encode()) == config
    assert config.orientation == "exif"
    for name in ("fetch_allow", "fetch_ports", "file_roots", "robots", "contact", "max_redirects"):
        assert getattr(config.fetch, name) == getattr(settings, name), name
