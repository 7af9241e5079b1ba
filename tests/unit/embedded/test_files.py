"""Files of the embedded stack: a lock must be a plain file, not a link to one."""

from __future__ import annotations

import pytest

from contract.errors import UnavailableError
from contract.settings import load_settings
from worker.embedded.files import locked
from worker.embedded.stack import alone_in


def test_a_lock_that_is_a_link_is_refused(tmp_path) -> None:
    target, link = tmp_path / "target", tmp_path / "lock"
    link.symlink_to(target)
    with pytest.raises(PermissionError, match="is a link"), locked(link):
        pass
    assert not target.exists()


def test_up_refuses_a_home_whose_lock_is_a_link(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RESNEXT_HOME", str(tmp_path))
    (tmp_path / "up.pid").symlink_to(tmp_path / "target")
    with pytest.raises(UnavailableError, match=r"up\.pid is a link"), alone_in(load_settings()):
        pass
