"""The demo's pictures, for tests that need a real photograph."""

from __future__ import annotations

from pathlib import Path

PICTURES = Path(__file__).parents[2] / "demo" / "pictures"
GOOD = PICTURES / "chelsea.jpg"
