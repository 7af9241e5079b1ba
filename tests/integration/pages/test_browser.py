"""The pages in a real browser, used with keyboard, mouse and narrow screens."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, update

from contract.database.engine import reading
from contract.database.tables import jobs
from producer.jobs.job import find_job
from producer.pages.report import make_report
from producer.pages.sessions import link_of, make_link
from tests.doubles.worker import WEB
from tests.hostile import EVERYTHING
from tests.integration.installation import Installation, dispatching
from tests.servers.api import Api
from tests.servers.browser import Window, running, window
from tests.settled import Answers, make_job, picture

# The browser's view does not depend on the database. Other tests cover both.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

PAGES = ("/", "/?name=nothing", "/jobs/{job}", "/jobs/{small}", "/jobs/{job}?outcome=failed",
         "/jobs/{job}/images/0", "/jobs/{job}/images/1", "/workers", "/jobs/none")  # fmt: skip
DROP = """([name, content]) => {
  const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name));
  const told = (type) => document.querySelector(".drop").dispatchEvent(
    new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true }));
  told("dragenter"); told("dragover"); told("drop");
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with running() as browser:
        yield browser


@pytest.fixture
def here(browser: Any, site: Api) -> Iterator[Window]:
    """A logged-in window. The test fails if it contacted another host or reported an error."""
    with window(browser, site.url, site.submitter.key) as found:
        yield found
        assert found.outside() == []
        assert found.complaints == []


def drop(here: Window, name: str, content: bytes) -> None:
    """Drop a file on the page, as with the mouse."""
    here.page.evaluate(DROP, [name, base64.b64encode(content).decode()])


def make_jobs(engine: Engine) -> dict[str, str]:
    failed = range(1, 600, 40)
    return {
        "job": make_job(engine, Answers(total=600, failed=failed, tags={"team": "red"})),
        "small": make_job(engine, Answers(total=3, settled=2)),
    }


def test_a_link_opens_the_pages_without_typing(browser: Any, site: Api, engine: Engine) -> None:
    with window(browser, site.url) as found:
        found.go(link_of("", make_link(engine, "submitter")))
        found.page.wait_for_url(f"{site.url}/")
        assert found.page.locator(".drop").is_visible()
        assert found.page.evaluate("document.cookie") == ""
        assert found.complaints == []


def test_a_dropped_picture_becomes_a_job(here: Window, site: Api) -> None:
    drop(here, "kitten.jpg", picture())
    here.page.wait_for_url(re.compile("/jobs/[0-9a-f]{16}$"))
    (job,) = site.reader.get("/v1/jobs").json()["jobs"]
    assert job["total"] == 1
    assert here.page.locator("#progress .numbers dd").first.inner_text() == "1"


def test_chosen_files_are_sent_at_once(here: Window, site: Api) -> None:
    files = [{"name": f"{n}.jpg", "mimeType": "image/jpeg", "buffer": picture()} for n in range(3)]
    here.page.set_input_files("#files", files)
    here.page.wait_for_url(re.compile("/jobs/[0-9a-f]{16}$"))
    assert site.reader.get("/v1/jobs").json()["jobs"][0]["total"] == 3


def test_a_dropped_list_is_watched_to_its_end_and_its_errors_retried(
    here: Window, installation: Installation
) -> None:
    """The dispatcher and the worker are real, except for the worker's loaders and classifier."""
    uris = [f"{WEB}ok/{n}" for n in range(20)] + [f"{WEB}fail/http_404/{n}" for n in range(3)]
    drop(here, "list.txt", "\n".join(uris).encode())
    here.page.wait_for_url(re.compile("/jobs/[0-9a-f]{16}$"))
    page = here.page
    assert page.locator("#progress .chip").inner_text() == "running"
    assert "no worker serves" in page.locator("#progress").inner_text()
    page.evaluate("window.sameDocument = true")
    with dispatching(installation):
        installation.start()
        page.locator("#progress .chip.completed").wait_for()
        page.locator("#errors-title").wait_for()
        assert "20" in page.locator("#progress .numbers").inner_text()
        assert page.locator(".errors code").inner_text() == "http_404"
        assert page.locator(".card").count() == 23
        assert page.evaluate("window.sameDocument"), "the page was reloaded"
        page.get_by_role("button", name="Run images with http_404 again").click()
        page.get_by_text("3 images run again.").wait_for()
        page.locator("#progress .chip.completed").wait_for()


def test_the_list_of_jobs_updates_itself(here: Window, engine: Engine) -> None:
    first = make_job(engine, Answers(total=10, settled=2, name="first"))
    here.go("/")
    here.page.get_by_role("link", name="first").wait_for()
    make_job(engine, Answers(name="second"))
    here.page.get_by_role("link", name="second").wait_for()
    here.page.fill("input[name=name][type=search]", first)
    here.page.get_by_role("button", name="Show").click()
    here.page.wait_for_url(f"{here.url}/jobs/{first}")


def test_the_gallery_is_filtered_and_an_image_opened(here: Window, engine: Engine) -> None:
    here.go(f"/jobs/{make_job(engine, Answers(total=200, failed=[3, 4]))}")
    page = here.page
    page.get_by_role("link", name="school bus", exact=True).click()
    page.wait_for_url(re.compile("label=school"))
    names = page.locator(".card .guesses li:first-child .name").all_inner_texts()
    assert names
    assert set(names) == {"school bus"}
    page.fill("input[name=label]", "")
    page.select_option("select[name=outcome]", "failed")
    page.locator("#gallery").get_by_role("button", name="Show").click()
    page.locator(".card.failed").first.wait_for()
    assert page.locator(".card").count() == 2
    page.locator(".card a").first.click()
    page.wait_for_url(re.compile(r"/images/\d$"))
    assert "It failed" in page.locator("main").inner_text()


def test_pictures_are_shown(here: Window, engine: Engine) -> None:
    here.go(f"/jobs/{make_job(engine)}")
    here.page.locator(".card img").last.scroll_into_view_if_needed()
    here.until(
        "[...document.querySelectorAll('.card img')].every((one) => one.naturalWidth === 128)"
    )


def test_a_job_is_cancelled_by_keyboard(here: Window, engine: Engine, site: Api) -> None:
    job = site.submitter.post("/v1/jobs", json={"uris": ["https://a.org/1"]}).json()["id"]
    here.go(f"/jobs/{job}")
    ask = here.page.locator("#ask-cancel > summary")
    ask.focus()
    here.page.keyboard.press("Enter")
    here.page.keyboard.press("Tab")
    here.page.keyboard.press("Enter")
    here.page.get_by_text("The job is cancelled.").wait_for()


def test_updates_keep_what_the_user_is_typing(here: Window, engine: Engine) -> None:
    here.go(f"/jobs/{make_job(engine, Answers(total=400, settled=30, name='old'))}")
    here.page.fill("input[name=label]", "tab")
    here.page.evaluate("window.noted = document.querySelector('#progress')")
    with engine.begin() as connection:
        connection.execute(update(jobs).values(priority=7))
    here.until("window.noted !== document.querySelector('#progress')")
    assert here.page.input_value("input[name=label]") == "tab"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1400])
def test_every_page_fits_and_axe_finds_nothing(
    browser: Any, site: Api, engine: Engine, width: int, scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    made = make_jobs(engine)
    options = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    with window(browser, site.url, **options) as found:
        found.go("/login")
        assert violations(axe, found) == []
    with window(browser, site.url, site.submitter.key, **options) as found:
        for path in PAGES:
            found.go(path.format(**made))
            for folded in found.page.locator("details > summary").all():
                if folded.is_visible():
                    folded.click()
            assert violations(axe, found) == [], path
            assert found.page.evaluate("document.documentElement.scrollWidth") <= width, path
        ground = found.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 200) == (scheme == "dark")
        assert found.outside() == []


def violations(axe: Any, found: Window) -> list[str]:
    return [
        f"{one['id']}: {[node['html'] for node in one['nodes']]}"
        for one in axe.run(found.page).response["violations"]
    ]


def test_without_scripts_everything_works_except_live_updates(
    browser: Any, site: Api, engine: Engine
) -> None:
    job = make_job(engine, Answers(total=60, failed=[1, 2]))
    with window(browser, site.url, site.submitter.key, java_script_enabled=False) as found:
        page = found.page
        page.fill("#list", "https://a.org/1\nhttps://a.org/2")
        page.get_by_role("button", name="Classify").click()
        page.wait_for_url(re.compile("/jobs/[0-9a-f]{16}$"))
        found.go(f"/jobs/{job}")
        page.get_by_role("link", name="Next page").click()
        assert page.locator(".card").count() == 24
        page.get_by_role("button", name="Log out").click()
        page.wait_for_url(f"{site.url}/login")


def test_hostile_text_in_every_field_does_nothing(here: Window, engine: Engine) -> None:
    called: list[str] = []
    here.page.context.expose_function("hit", lambda: called.append(here.page.url))
    here.page.on("dialog", lambda dialog: (called.append("dialog"), dialog.dismiss()))
    job = make_job(engine, Answers(total=4, failed=[1, 3], text=EVERYTHING))
    for path in ("/", f"/jobs/{job}", f"/jobs/{job}/images/0", f"/jobs/{job}/images/1"):
        here.go(path)
        here.page.wait_for_load_state("networkidle")
        assert here.page.url == here.url + path
        assert here.page.locator("iframe, base, [onerror], [onload], [onfocus]").count() == 0
    assert called == []


def test_a_report_needs_no_network(browser: Any, engine: Engine, site: Api, tmp_path: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    for text in (None, EVERYTHING):
        job = make_job(engine, Answers(total=40, failed=[1, 2], text=text))
        file = tmp_path / f"{job}.html"
        with reading(engine) as connection:
            found = find_job(connection, job)
        file.write_text(make_report(engine, found, 30.0))
        with window(browser, "file://", offline=True) as shown:
            shown.page.goto(file.as_uri())
            first = shown.page.locator(".card img").first
            first.scroll_into_view_if_needed()  # pictures load when they are near the view
            assert first.evaluate("one => one.decode().then(() => one.naturalWidth)") == 128
            assert shown.page.locator(".card").count() == 40
            ground = "getComputedStyle(document.querySelector('.panel')).borderRadius"
            assert shown.page.evaluate(ground) == "10px"
            assert [one for one in shown.asked if not one.startswith(("file:", "data:"))] == []
            assert shown.complaints == []
            if text is None:
                assert violations(axe, shown) == []
