"""The real Flower over HTTP: how it shows a chunk, paths behind a proxy, and logins."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.dashboard import Dashboard, run_a_chunk
from tests.integration.installation import Installation
from worker.dashboard.logins import WRONG_LOGINS_A_MINUTE
from worker.dashboard.shown import COLUMNS, HIDDEN

# One database is enough, because the dashboard does not use it.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@contextmanager
def running(installation: Installation, tmp_path: Path, **variables: str) -> Iterator[Dashboard]:
    dashboard = Dashboard(installation, tmp_path / "home", **variables)
    dashboard.start()
    try:
        yield dashboard
    finally:
        dashboard.stop()


def test_a_chunk_is_shown_in_words_without_unused_fields(
    installation: Installation, dashboard: Dashboard, node: str
) -> None:
    task = run_a_chunk(installation, dashboard)
    columns = re.findall(r'data-column="(\w+)">([^<]*)<', dashboard.ask("/tasks")[1])
    assert columns == list(COLUMNS.items())
    row = dashboard.row(task)
    assert set(COLUMNS) <= set(row)
    assert row["kwargs"] == "job=job chunk=0 generation=1 images=3"
    assert row["exception"] == "2 of 3 images failed: decode_error 1, http_404 1"
    assert row["worker"] == node
    for words in ("job=job", "job=job chunk=0", "kwargs:images", "state:FAILURE"):
        found = dashboard.json(f"/api/tasks?search={urllib.parse.quote(words)}")
        assert list(found) == [task], words
    page = dashboard.ask(f"/task/{task}")[1]
    assert "chunk 0 of job job, 3 images, generation 1" in page
    assert set(re.findall(r"<dt>([^<]*)</dt>", page)) == {
        *("Name", "UUID", "Status", "Arguments", "Keyword arguments", "Result", "Exception"),
        *("Received", "Started", "Failed", "Runtime", "Worker"),
    }


def test_the_elements_that_our_styles_hide_exist_in_flowers_pages(
    dashboard: Dashboard, node: str
) -> None:
    """This test fails if a new version of Flower renames them."""
    styles = dashboard.ask("/static/css/flower.css")[1]
    assert all(rule in styles for rule in HIDDEN)
    assert styles.rstrip().endswith("{ display: none !important; }")
    assert 'data-task-state="RETRY"' in dashboard.ask("/tasks")[1]
    page = dashboard.ask(f"/worker/{node}")[1]
    assert 'id="worker-tab-limits"' in page
    assert 'id="tab-limits"' in page
    tab = page[page.index('id="tab-tasks"') : page.index("end tasks tab")]
    captions = re.findall(r"<caption>([^<]*)</caption>", tab)
    assert [captions[2], captions[4]] == ["Scheduled tasks", "Revoked tasks"]


@pytest.mark.parametrize("prefix", ["flower", "/a/b_c/"])
def test_the_dashboard_works_below_a_path_behind_a_proxy(
    installation: Installation, tmp_path: Path, prefix: str
) -> None:
    path = f"/{prefix.strip('/')}"
    with running(installation, tmp_path, FLOWER_URL_PREFIX=prefix) as dashboard:
        assert dashboard.url.endswith(path)
        for page in ("/", "/tasks", "/workers", "/broker", "/metrics", "/api/tasks"):
            assert dashboard.ask(page)[0] == 200, page
            assert dashboard.ask(page, login=None)[0] == 401, page
        assert dashboard.ask("")[0] == 200, "the path without a slash leads to the front page"
        assert dashboard.ask("/healthcheck", login=None)[0] == 200
        assert dashboard.ask("/api/task/revoke/x", "POST")[0] == 403
        root = dashboard.url.removesuffix(path)
        links = re.findall(r'(?:href|src)="(/[^"]*)"', dashboard.ask("/workers")[1])
        assert links
        for link in links:
            assert link.startswith(f"{path}/"), link
            assert dashboard.ask(link, below=root)[0] == 200, link
        assert dashboard.ask("/workers", below=root)[0] == 404


def test_after_wrong_logins_even_the_right_one_is_refused(dashboard: Dashboard) -> None:
    dashboard.start()
    for guess in range(WRONG_LOGINS_A_MINUTE):
        assert dashboard.ask("/tasks", login=f"me:{guess}")[0] == 401
    status, text = dashboard.ask("/tasks")
    assert (status, "Wait a minute" in text) == (429, True), "otherwise a right guess would show"
    assert dashboard.ask("/tasks", login=None)[0] == 401
    assert dashboard.ask("/healthcheck", login=None)[0] == 200
    assert dashboard.log.count("Too many wrong logins from 127.0.0.1") == 1
    assert "Traceback" not in dashboard.log


@pytest.mark.parametrize("login", ["me:grüße:und so", "m€:\N{SNOWMAN}"])
def test_a_login_may_have_any_characters_and_is_never_shown(
    installation: Installation, tmp_path: Path, login: str
) -> None:
    with running(installation, tmp_path, FLOWER_LOGIN=login) as dashboard:
        assert dashboard.ask("/tasks", login=login)[0] == 200
        for wrong in ("me:ü", login + " ", login[:-1], "", ":"):
            assert dashboard.ask("/tasks", login=wrong)[0] == 401
        assert dashboard.ask("/tasks", login=login)[0] == 200
        password = login.partition(":")[2]
        words = Path(f"/proc/{dashboard.process.pid}/cmdline").read_bytes()
        assert password.encode() not in words
        assert password not in dashboard.log
        for page in ("/", "/tasks", "/workers", "/broker", "/nothing"):
            assert password not in dashboard.ask(page, login=login)[1]
