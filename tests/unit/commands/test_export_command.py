"""`resnextq export` compiles where a worker does: in the cache, since /tmp may be noexec."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from contract.settings import load_settings
from resnext.export import write
from resnext.run import compiler
from worker.commands.export import run_export


class ReachedError(Exception):
    """Ends the export instead of a minute of compiling."""


def test_pt2_compiles_in_the_cache(tmp_path: Path, monkeypatch) -> None:
    for name in (compiler.CACHE, compiler.TRITON_CACHE):
        monkeypatch.setenv(name, "set")
        monkeypatch.delenv(name)
    monkeypatch.setenv("RESNEXT_CACHE", str(tmp_path))
    monkeypatch.setenv("RESNEXT_MODEL", "resnext_tiny_imagenet")
    found = {}

    def export_model(*_: object, **__: object) -> None:
        found.update(os.environ)
        raise ReachedError

    monkeypatch.setattr(write, "export_model", export_model)
    with pytest.raises(ReachedError):
        run_export(load_settings(), layout="pt2", output=tmp_path / "models", force=False)
    assert found[compiler.CACHE] == str(tmp_path / "inductor")
    assert found[compiler.TRITON_CACHE] == str(tmp_path / "triton")
