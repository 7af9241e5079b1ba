"""`make demo`, as a newcomer runs it after cloning the repository."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

from resnext.spec.catalogue import BUNDLED

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "demo" / "run.py"
# Whatever the network says of a picture: `✓ tabby`, or `✗ bison (shows: koala)`.
RIGHT_OR_WRONG = re.compile(r"✓ \w|✗ \w.*\(shows: \w")


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the demo without a display, in an empty home, with the bundled model."""
    return subprocess.run(
        [sys.executable, DEMO],
        cwd=folder,
        env=os.environ
        | {"HOME": str(folder), "TMPDIR": str(folder), "COLUMNS": "120"}
        | {"RESNEXT_MODEL": "resnext_tiny_imagenet", "RESNEXT_WEIGHTS": "bundled"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_demo_shows_the_result_of_every_picture(tmp_path) -> None:
    finished = run(tmp_path)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    text = finished.stdout
    for picture in ("chelsea.jpg", "red-panda.png", "coffee-cmyk.jpg", "shepherd-rgba.png"):
        (line,) = (line for line in text.splitlines() if line.split()[:1] == [picture])
        assert RIGHT_OR_WRONG.search(line), line
    for reason in ("http_404", "connect", "truncated", "not_an_image"):
        assert f"{reason}: " in text
    assert "14 classified, 4 failed, 0 pending, of 18" in text
    assert "resnext_tiny_imagenet/bundled" in text
    assert re.search(r"^\d+ of 14 classes are right\. 4 pictures are broken", text, re.MULTILINE)
    assert "knows 200 of ImageNet's 1000 classes" in text
    assert "resnextq submit" in text
    assert not list(tmp_path.glob("resnext-demo-*")), "the demo left its home behind"


def test_without_a_download_the_demo_uses_the_bundled_model(monkeypatch, capsys) -> None:
    """It says so in one line and soon: the proxy here refuses every connection."""
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    demo = runpy.run_path(str(DEMO))
    assert demo["choose_model"]() == (BUNDLED, "bundled")
    (line,) = capsys.readouterr().out.splitlines()
    assert BUNDLED in line


def test_the_demo_leaves_servers_in_a_settings_file_alone(tmp_path) -> None:
    """The documentation tells users to write `.env` in the folder where they run `make demo`."""
    theirs = tmp_path / "theirs.db"
    (tmp_path / ".env").write_text(f"RESNEXT_DATABASE_URL=sqlite:///{theirs}\n")
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not theirs.exists()
