"""`/jobs/{id}`: what it shows, its gallery, buttons and events."""

from __future__ import annotations

import json
import re
from html import unescape

import pytest
import requests
from sqlalchemy import Engine, update

from contract.database.clock import db_now
from contract.database.tables import jobs
from producer.jobs.change import pause
from producer.submit.submission import submit
from tests.servers.api import Api
from tests.servers.visitor import Visitor
from tests.settled import Answers, make_job

FAILED = (1, 2, 3, 4, 7)


def text_of(html: str) -> str:
    """The visible text of a page, with blanks joined."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


def cards(html: str) -> list[int]:
    """The positions of the images in the gallery."""
    return [int(one) for one in re.findall(r'class="shot" href="/jobs/\w+/images/(\d+)"', html)]


def test_a_job_shows_its_progress(visitor: Visitor, engine: Engine) -> None:
    job = make_job(engine, Answers(total=400, settled=100, failed=FAILED, tags={"team": "red"}))
    page = visitor.get(f"/jobs/{job}")
    shown = text_of(page.text)
    assert "running 25% 3 min left" in shown
    for words in ("Images 400", "Classified 95", "Failed 5", "Pending 300", "team=red"):
        assert words in shown, words
    assert "Waiting: no worker serves" in shown
    assert "Start one: RESNEXT_MODEL=" in shown
    assert 'aria-label="100 of 400 images done, 5 failed"' in page.text
    assert f'data-events="/jobs/{job}/events"' in page.text
    assert '<noscript><meta http-equiv="refresh"' in page.text


def test_an_ended_job_shows_how_long_it_took(visitor: Visitor, engine: Engine) -> None:
    job = make_job(engine, Answers(total=120, seconds=300))
    page = visitor.get(f"/jobs/{job}").text
    assert "completed 100% done" in text_of(page)
    assert "Took 5 min" in text_of(page)
    assert "Images per second from " in page
    assert "data-events" not in page
    assert "refresh" not in page


def test_cancelled_images_are_counted_separately(visitor: Visitor, engine: Engine) -> None:
    answers = Answers(total=40, failed=range(20), codes=["cancelled", "tls"], state="cancelled")
    job = make_job(engine, answers)
    page = visitor.get(f"/jobs/{job}").text
    assert "Failed 10 Cancelled 10 Pending" in text_of(page)
    assert 'aria-label="40 of 40 images done, 10 failed"' in page
    assert '<td class="number bad" data-name="failed">10</td>' in visitor.get("/").text


def test_errors_are_shown_with_advice(visitor: Visitor, engine: Engine) -> None:
    job = make_job(engine, Answers(total=40, failed=range(20), codes=["http_404", "tls"]))
    shown = text_of(visitor.get(f"/jobs/{job}").text)
    assert "http_404 10" in shown
    assert "There is nothing at this address." in shown
    assert "For your own authority, set the workers' SSL_CERT_FILE." in shown
    assert re.search(r"By host: (\w+\.example\.org \d ?)+", shown)
    assert "Run all 20 again" in shown


def test_classes_are_counted(visitor: Visitor, engine: Engine) -> None:
    job = make_job(engine, Answers(total=300))
    page = visitor.get(f"/jobs/{job}").text
    assert "15 classes, by the top class of each image" in page
    assert '<a href="?label=school+bus#gallery">school bus</a>' in page
    assert "3 more" in page


def test_a_small_job_shows_its_pictures_first(visitor: Visitor, engine: Engine) -> None:
    job = make_job(engine, Answers(total=3, failed=[1]))
    page = visitor.get(f"/jobs/{job}").text
    assert cards(page) == [0, 1, 2]
    assert page.index('id="gallery"') < page.index('id="classes-title"')
    assert page.count("<img src=") == 2
    assert "http_404" in page or "timeout" in page


# The gallery


def test_the_gallery_has_pages(visitor: Visitor, engine: Engine) -> None:
    job = make_job(engine, Answers(total=60, failed=[5]))
    found, path = list[int](), f"/jobs/{job}"
    while path:
        page = visitor.get(path).text
        found += cards(page)
        following = re.findall(r'<a href="([^"]*)">Next page', page)
        path = unescape(following[0]).partition("#")[0] if following else ""
    assert found == list(range(60))


def test_a_large_job_shows_its_sample(visitor: Visitor, engine: Engine) -> None:
    job = make_job(engine, Answers(total=2_000, pictures=20, failed=[1]))
    page = visitor.get(f"/jobs/{job}").text
    assert cards(page) == list(range(0, 2_000, 100))
    assert "a sample of the job" in page
    assert "Next page" not in page


@pytest.mark.parametrize("pictures", [0, 100])
@pytest.mark.parametrize(
    "query", ["label=tabby", "min_score=0.5", "outcome=classified", "label=tabby&min_score=0.4"]
)
def test_the_gallery_is_filtered(
    visitor: Visitor, site: Api, engine: Engine, query: str, pictures: int
) -> None:
    """The filter works like the API's. If the job has thumbnails, only images with one appear."""
    total = 2_000 if pictures else 30
    job = make_job(engine, Answers(total=total, pictures=pictures, failed=FAILED))
    asked = query.replace("outcome=", "only=")
    rows = site.reader.get(f"/v1/jobs/{job}/results?{asked}&limit=5000").json()["results"]
    expected = [row["position"] for row in rows]
    if pictures:
        expected = [position for position in expected if position % 20 == 0]
    assert expected
    page = visitor.get(f"/jobs/{job}?{query}").text
    assert cards(page) == expected[:24]


def test_failed_images_are_found_by_their_code(visitor: Visitor, engine: Engine) -> None:
    failed = range(0, 3_000, 10)
    job = make_job(engine, Answers(total=3_000, failed=failed, pictures=0))
    found, path = list[int](), f"/jobs/{job}?outcome=failed"
    while path:
        page = visitor.get(path).text
        found += cards(page)
        following = re.findall(r'<a href="([^"]*)">Next page', page)
        path = unescape(following[0]).partition("#")[0] if following else ""
    assert sorted(found) == list(failed)
    of_code = [position for position in failed if position % 3 == 1]  # the second code
    assert cards(visitor.get(f"/jobs/{job}?error=timeout").text) == of_code[:24]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("label=zebrra", "No class of resnext101_32x4d is called"),
        ("min_score=7", "must be from 0 to 1"),
        ("error=http_9", "There is no error code"),
        ("error=timeout&label=tabby", "no image is both"),
        ("after=x", "is not the end of a page"),
        ("error=timeout&after=timeout:x", "is not the end of a page"),
        ("min_score=nan", "must be from 0 to 1"),
    ],
)
def test_the_page_explains_an_invalid_filter(
    visitor: Visitor, engine: Engine, query: str, message: str
) -> None:
    answer = visitor.get(f"/jobs/{make_job(engine)}?{query}")
    assert answer.status_code == 200
    assert message in unescape(answer.text)


def test_the_page_says_if_no_image_matches(visitor: Visitor, engine: Engine) -> None:
    page = visitor.get(f"/jobs/{make_job(engine)}?min_score=1").text
    assert "No image matches" in page


def test_the_gallery_searches_a_large_job_in_pieces(
    visitor: Visitor, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.pages.gallery.ROWS_A_PAGE", 100)
    job = make_job(engine, Answers(total=1_000, pictures=0))
    found, path = list[int](), f"/jobs/{job}?label=pizza"
    while path:
        page = visitor.get(path).text
        found += cards(page)
        following = re.findall(r'<a href="([^"]*)">Next page', page)
        path = unescape(following[0]).partition("#")[0] if following else ""
    rows = visitor.get(f"/jobs/{job}/results.jsonl").text.splitlines()
    records = map(json.loads, rows)
    assert found == [one["position"] for one in records if one["top5"][0]["label"] == "pizza"]


# One image


def test_an_images_page_shows_all_its_data(visitor: Visitor, engine: Engine) -> None:
    job = make_job(engine, Answers(total=12, failed=[1]))
    page = visitor.get(f"/jobs/{job}/images/0")
    shown = text_of(page.text)
    for words in (
        "item-0", "1024 \N{MULTIPLICATION SIGN} 768 pixels", "JPEG, 121 KiB", "cd" * 32, "bf16",
        "Attempts 1", "node-1:77:3f2a", "resnext101_32x4d/nvidia", "Top 5 classes",
    ):  # fmt: skip
        assert words in shown, words
    assert 'rel="noreferrer noopener nofollow">https://' in page.text
    assert f'src="/jobs/{job}/thumbnails/0"' in page.text
    failed = text_of(visitor.get(f"/jobs/{job}/images/1").text)
    assert "status 404, as the server says" in failed
    assert "no thumbnail" in failed


def test_a_thumbnail_is_served_as_a_picture_only(visitor: Visitor, engine: Engine) -> None:
    job = make_job(engine)
    answer = visitor.get(f"/jobs/{job}/thumbnails/0")
    assert answer.content.startswith(b"\xff\xd8\xff")
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"


@pytest.mark.parametrize(
    "path",
    ["images/12", "images/-1", "images/x", "images/99999999999999999999", "thumbnails/12",
     "results.xlsx", "nothing", "images/0/x"],
)  # fmt: skip
def test_unknown_paths_are_a_404(visitor: Visitor, engine: Engine, path: str) -> None:
    answer = visitor.get(f"/jobs/{make_job(engine)}/{path}")
    assert answer.status_code == 404
    assert "That did not work" in answer.text


@pytest.mark.parametrize("job", ["0123456789abcdef", "x", "%00", "..%2f", "a" * 3_000])
def test_an_unknown_job_is_a_404(visitor: Visitor, job: str) -> None:
    assert visitor.get(f"/jobs/{job}").status_code == 404


def test_results_can_be_downloaded(visitor: Visitor, engine: Engine) -> None:
    job = make_job(engine, Answers(total=30))
    table = visitor.get(f"/jobs/{job}/results.csv")
    assert len(table.text.splitlines()) == 31
    assert table.headers["Content-Disposition"] == f'attachment; filename="{job}.csv"'
    assert visitor.get(f"/jobs/{job}/results.parquet").content.startswith(b"PAR1")


# Buttons


def test_a_job_is_paused_resumed_and_cancelled(visitor: Visitor, site: Api, engine: Engine) -> None:
    job = submit(engine, [("https://a.org/1", None)])

    def now() -> tuple[str, bool]:
        found = site.reader.get(f"/v1/jobs/{job}").json()
        return found["state"], found["paused"]

    page = visitor.send(f"/jobs/{job}", f"/jobs/{job}/pause")
    assert (now(), "The job is paused" in page.text) == (("running", True), True)
    page = visitor.send(f"/jobs/{job}", f"/jobs/{job}/resume")
    assert (now(), "The job is running again" in page.text) == (("running", False), True)
    page = visitor.send(f"/jobs/{job}", f"/jobs/{job}/cancel")
    assert (now(), "The job is cancelled" in page.text) == (("cancelled", False), True)


def test_a_button_that_came_too_late_gets_an_explanation(visitor: Visitor, engine: Engine) -> None:
    job = submit(engine, [("https://a.org/1", None)])
    token = re.findall(r'name="token" value="(\w+)"', visitor.get(f"/jobs/{job}").text)[0]
    with engine.begin() as connection:
        connection.execute(update(jobs).values(state="completed", finished_at=db_now()))
    answer = visitor.post(f"/jobs/{job}/pause", data={"token": token})
    assert (answer.status_code, "is already completed" in answer.text) == (409, True)
    answer = visitor.post("/jobs/0123456789abcdef/pause", data={"token": token})
    assert answer.status_code == 404


def test_a_job_is_edited(visitor: Visitor, site: Api, engine: Engine) -> None:
    job = make_job(engine, Answers(tags={"team": "red", "run": "7"}))
    page = visitor.get(f"/jobs/{job}").text
    assert "run=7\nteam=red</textarea>" in page
    visitor.send(
        f"/jobs/{job}", f"/jobs/{job}/edit", name="cats", priority="-5", tags="run=8\na=b = c"
    )
    found = site.reader.get(f"/v1/jobs/{job}").json()
    assert (found["name"], found["priority"]) == ("cats", -5)
    assert found["tags"] == {"a": "b = c", "run": "8"}
    visitor.send(f"/jobs/{job}", f"/jobs/{job}/edit", name="", priority="0", tags="")
    found = site.reader.get(f"/v1/jobs/{job}").json()
    assert (found["name"], found["tags"]) == (None, {})
    wrong = visitor.send(f"/jobs/{job}", f"/jobs/{job}/edit", priority="x")
    assert (wrong.status_code, "-1000 to 1000" in wrong.text) == (422, True)


# Events


def events_of(answer: requests.Response) -> list[tuple[str, str]]:
    """The names of the events and their HTML."""
    found, name = list[tuple[str, str]](), ""
    for line in answer.iter_lines(decode_unicode=True):
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        if line.startswith("data: "):
            found.append((name, json.loads(line.removeprefix("data: "))))
    return found


def test_progress_events_match_the_page(visitor: Visitor, engine: Engine) -> None:
    job = make_job(engine)
    with visitor.get(f"/jobs/{job}/events", stream=True) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        ((name, html),) = events_of(answer)
    assert name == "end"
    assert html.strip() in visitor.get(f"/jobs/{job}").text


def test_a_change_is_sent_as_an_event(visitor: Visitor, engine: Engine) -> None:
    job = submit(engine, [("https://a.org/1", None)])
    with visitor.get(f"/jobs/{job}/events", stream=True) as answer:
        lines = answer.iter_lines(decode_unicode=True)
        first = next(line for line in lines if line.startswith("data: "))
        assert "Pause" in first
        pause(engine, job)
        second = next(line for line in lines if line.startswith("data: "))
        assert "Resume" in second
