"""`make demo`, as somebody types it who has just cloned the repository."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "demo" / "run.py"


@pytest.fixture
def finished(tmp_path) -> subprocess.CompletedProcess[str]:
    """Without a display, with an empty home, where NVIDIA's server is not asked."""
    return subprocess.run(
        [sys.executable, DEMO],
        cwd=tmp_path,
        env=os.environ
        | {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "COLUMNS": "120"}
        | {"RESNEXT_WEIGHTS": "random"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_demo_shows_what_became_of_every_picture(finished, tmp_path) -> None:
    assert finished.returncode == 0, finished.stdout + finished.stderr
    text = finished.stdout
    for picture in ("chelsea.jpg", "horse.png", "coffee-cmyk.jpg", "astronaut-rgba.png"):
        assert picture in text
    for reason in ("http_404", "connect", "truncated", "not_an_image"):
        assert f"{reason}: " in text
    assert "14 classified, 4 failed, 0 pending, of 18" in text
    assert "resnext101_32x4d/random" in text
    assert "resnextq submit" in text
    assert not list(tmp_path.glob("resnext-demo-*")), "its home is left behind"


def test_weights_that_cannot_be_downloaded_are_replaced_by_random_ones(monkeypatch, capsys) -> None:
    """In one line, and soon: the address that is asked here takes no connection."""
    import runpy

    demo = runpy.run_path(str(DEMO))
    assert demo["answers"]("http://127.0.0.1:9/weights") is False
    monkeypatch.setitem(demo["choose_weights"].__globals__, "answers", lambda _: False)
    assert demo["choose_weights"]() == "random"
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_server_that_accepts_and_says_nothing_is_given_up() -> None:
    import runpy
    import socket

    demo = runpy.run_path(str(DEMO))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert demo["answers"](f"http://127.0.0.1:{port}/weights") is False
