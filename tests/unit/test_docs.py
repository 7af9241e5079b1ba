"""The documents: generated ones are up to date, and all links work."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from contract.failure import ERROR_CODES
from contract.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md")])


@pytest.mark.parametrize("name", ["settings.md", "errors.md", "metrics.md"])
def test_generated_documents_are_up_to_date(name) -> None:
    expected = runpy.run_path(str(DOCS / "generate.py"))["documents"]()[name]
    assert (DOCS / name).read_text() == expected, "stale: run `make docs`"


def test_every_setting_is_documented() -> None:
    text = (DOCS / "settings.md").read_text()
    for field in Settings.model_fields:
        assert text.count(f"| `{PREFIX}{field.upper()}` |") == 1


def test_every_error_code_is_documented() -> None:
    text = (DOCS / "errors.md").read_text()
    for code in ERROR_CODES:
        assert text.count(f"| `{code}` |") == 1


def anchors(document: Path) -> set[str]:
    """Returns the anchors of the document's headings."""
    titles = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_work(document) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", document.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path) if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_settings_named_in_documents_exist(document) -> None:
    known = {f"{PREFIX}{field.upper()}" for field in Settings.model_fields}
    named = set(re.findall(rf"{PREFIX}[A-Z_]+\b", document.read_text()))
    assert named - known == set()
