"""The configuration of a loader arrives unchanged."""

from __future__ import annotations

from pathlib import Path

from contract.settings import Settings
from resnext.spec.catalogue import find_spec
from worker.loader.config import LoaderConfig


def test_a_loaders_configuration_has_the_settings_and_survives_encoding() -> None:
    settings = Settings(
        fetch_allow=("images.internal", "10.0.0.0/8"),
        fetch_ports=(80, 443),
        file_roots=(Path("/data"),),
        robots="ignore",
        contact="mailto:me@example.org",
        max_redirects=2,
        orientation="exif",
    )
    config = LoaderConfig.of(settings, find_spec("resnext_tiny_imagenet").preprocessing)
    assert LoaderConfig.decode(config.encode()) == config
    assert config.orientation == "exif"
    for name in ("fetch_allow", "fetch_ports", "file_roots", "robots", "contact", "max_redirects"):
        assert getattr(config.fetch, name) == getattr(settings, name), name
