"""`make demo`, as somebody types it who has just cloned the repository."""

from __future__ import annotations

import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "demo" / "run.py"


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    """Without a display, with an empty home, where NVIDIA's server is not asked."""
    return subprocess.run(
        [sys.executable, DEMO],
        cwd=folder,
        env=os.environ
        | {"HOME": str(folder), "TMPDIR": str(folder), "COLUMNS": "120"}
        | {"RESNEXT_MODEL": "resnext29_cifar10", "RESNEXT_WEIGHTS": "bundled"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_demo_shows_what_became_of_every_picture(tmp_path) -> None:
    finished = run(tmp_path)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    text = finished.stdout
    for picture in ("chelsea.jpg", "horse.png", "coffee-cmyk.jpg", "astronaut-rgba.png"):
        assert picture in text
    for reason in ("http_404", "connect", "truncated", "not_an_image"):
        assert f"{reason}: " in text
    assert "14 classified, 4 failed, 0 pending, of 18" in text
    assert "resnext29_cifar10/bundled" in text
    assert "knows nothing but: airplane, automobile, bird, cat, deer" in text
    (cat,) = (line for line in text.splitlines() if "chelsea.jpg" in line)
    assert "cat" in cat
    assert "resnextq submit" in text
    assert not list(tmp_path.glob("resnext-demo-*")), "its home is left behind"


def test_where_weights_cannot_be_downloaded_the_bundled_model_is_taken(monkeypatch, capsys) -> None:
    """In one line, and soon: the address that is asked here takes no connection."""
    demo = runpy.run_path(str(DEMO))
    assert demo["answers"]("http://127.0.0.1:9/weights") is False
    monkeypatch.setitem(demo["choose_model"].__globals__, "answers", lambda _: False)
    assert demo["choose_model"]() == ("resnext29_cifar10", "bundled")
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_servers_that_a_file_of_settings_names_are_not_touched(tmp_path) -> None:
    """People are told to make such a file in the very folder in which they type `make demo`."""
    theirs = tmp_path / "theirs.db"
    (tmp_path / ".env").write_text(f"RESNEXT_DATABASE_URL=sqlite:///{theirs}\n")
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not theirs.exists()


def test_a_server_that_accepts_and_says_nothing_is_given_up() -> None:
    demo = runpy.run_path(str(DEMO))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert demo["answers"](f"http://127.0.0.1:{port}/weights") is False
