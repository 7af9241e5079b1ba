"""`/jobs/{id}`: a job's live page, and the actions of its buttons."""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib.util import find_spec
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse

from contract.database.engine import reading
from producer.api import events, results
from producer.api.problems import Refused
from producer.api.service import Served, Service
from producer.api.watch import Look
from producer.jobs.cancel import cancel
from producer.jobs.change import edit, pause, resume
from producer.jobs.job import Job, as_json
from producer.jobs.retry import retry
from producer.pages.forms import Form, lines_of, text_of
from producer.pages.gallery import OUTCOMES, Wanted, find_cards
from producer.pages.html import page, part
from producer.pages.sessions import Session, Sessions
from producer.pages.view import look_at
from producer.submit.options import read_tags

router = APIRouter(prefix="/jobs")

EVENTS: Final = "text/event-stream"
DOWNLOADS: Final = {"csv": results.CSV, "jsonl": results.JSONL, "parquet": results.PARQUET}
# Messages on the page that follows a button.
SAID: Final = {
    "cancelled": "The job is cancelled.",
    "paused": "The job is paused. Workers finish what they have.",
    "resumed": "The job is running again.",
    "saved": "Saved.",
}


@router.get("/{job_id}")
def show(  # noqa: PLR0913, PLR0917  (the query's parameters)
    request: Request,
    service: Served,
    job_id: str,
    label: str = "",
    outcome: str = "",
    error: str = "",
    min_score: str = "",
    after: str = "",
    done: str = "",
    n: int = 0,
    part_of: Annotated[str, Query(alias="part")] = "",
) -> Response:
    wanted = Wanted(
        label=label.strip() or None,
        outcome=outcome if outcome in OUTCOMES else "",
        error=error.strip() or None,
        min_score=_number(min_score),
        after=after or None,
    )
    job, served = service.job_and_served(job_id)
    values = progress_of(as_json(job, served)) | _details(service, job, wanted)
    if part_of == "details":
        html = part("_details.html", request.state.session, **values)
        return HTMLResponse(html, 200, {"Cache-Control": "no-store"})
    said = f"{n:,} images run again." if done == "retried" else SAID.get(done)
    tags = "\n".join(f"{key}={value}" for key, value in job.tags.items())
    return page(request, "job.html", **values, said=said, tags_text=tags, here="jobs")


def progress_of(job: dict[str, Any]) -> dict[str, Any]:
    """The values for the progress part, from the job's JSON."""
    is_finished = job["finished_at"] is not None and job["state"] not in {"running", "submitting"}
    return {"job": job, "job_is_finished": is_finished, "took": job["took_s"]}


def _details(service: Service, job: Job, wanted: Wanted) -> dict[str, Any]:
    with reading(service.engine) as connection:
        view = look_at(connection, job)
    return {
        "view": view,
        "gallery": find_cards(service.engine, job, wanted),
        "links": True,
        "can_retry": job.state in {"running", "completed"} or job.is_finished,
        "has_parquet": find_spec("pyarrow") is not None,
    }


@router.get("/{job_id}/events")
async def follow(
    request: Request,
    service: Served,
    job_id: str,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """The progress part whenever it changes, as HTML in JSON; see `producer.api.events`."""
    job = await run_in_threadpool(service.job, job_id)
    looks = events.looks_of(service, job.number, last_event_id)
    stream = _stream(looks, request.app.state.sessions, request.state.session)
    return StreamingResponse(stream, media_type=EVENTS, headers=events.HEADERS)


async def _stream(
    looks: AsyncIterator[Look | None], sessions: Sessions, session: Session
) -> AsyncIterator[bytes]:
    """The stream of events. It also ends when the session ends."""
    async for look in looks:
        if sessions.known(session.token) is None and not await run_in_threadpool(
            sessions.find, session.token
        ):
            return
        yield events.KEEP_ALIVE if look is None else events.event(look, _html_of(look, session))


def _html_of(look: Look, session: Session) -> bytes:
    if not look.content:  # the job has been deleted
        return b'""'
    html = part("_progress.html", session, **progress_of(orjson.loads(look.content)))
    return orjson.dumps(html)


@router.get("/{job_id}/results.{ending}")
def download(service: Served, job_id: str, ending: str) -> Response:
    """All finished images, as `GET /v1/jobs/{id}/results` streams them."""
    if ending not in DOWNLOADS:
        raise Refused(404, f"Results come as {', '.join(DOWNLOADS)}.")
    return results.settled(
        service,
        job_id,
        only=None,
        label=None,
        min_score=None,
        error=None,
        limit=None,
        cursor=None,
        accept=DOWNLOADS[ending],
    )


@router.post("/{job_id}/cancel")
def cancelled(service: Served, job_id: str, form: Form) -> Response:  # noqa: ARG001  (its token)
    cancel(service.engine, service.job(job_id).id)
    return _back(job_id, "cancelled")


@router.post("/{job_id}/pause")
def paused(service: Served, job_id: str, form: Form) -> Response:  # noqa: ARG001  (its token)
    pause(service.engine, service.job(job_id).id)
    return _back(job_id, "paused")


@router.post("/{job_id}/resume")
def resumed(service: Served, job_id: str, form: Form) -> Response:  # noqa: ARG001  (its token)
    resume(service.engine, service.job(job_id).id)
    return _back(job_id, "resumed")


@router.post("/{job_id}/retry")
def retried(service: Served, job_id: str, form: Form) -> Response:
    code = text_of(form, "error")
    again = retry(service.engine, service.job(job_id).id, [code] if code else ())
    return _back(job_id, f"retried&n={again.images}")


@router.post("/{job_id}/edit")
def edited(service: Served, job_id: str, form: Form) -> Response:
    job = service.job(job_id)
    tags = read_tags(lines_of(form, "tags"))
    edit(
        service.engine,
        job.id,
        name=text_of(form, "name"),
        priority=_priority(text_of(form, "priority")),
        tags=tags,
        untag=[key for key in job.tags if key not in tags],
    )
    return _back(job_id, "saved")


def _back(job_id: str, done: str) -> Response:
    return RedirectResponse(f"/jobs/{job_id}?done={done}", 303)


def _priority(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        why = f"The priority must be a number from -1000 to 1000, got {text[:40]!r}."
        raise Refused(422, why) from error


def _number(text: str) -> float | None:
    try:
        return float(text) if text.strip() else None
    except ValueError:
        return None
