"""`/`: the jobs, newest first, and the form that creates one. `POST /jobs` takes the form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.datastructures import FormData

from contract.database.engine import reading
from contract.errors import ResnextQueueError, UnknownJobError
from producer.api.cursors import cursor_of, number_of
from producer.api.problems import Refused
from producer.api.service import Caller, Served, Service
from producer.jobs.job import MIN_ID_CHARS, as_json, find_job, live_workers
from producer.jobs.listed import Filter, list_jobs
from producer.pages.forms import Form, text_of
from producer.pages.html import STATES, page, part, query
from producer.pages.intake import begin_job

router = APIRouter()

A_PAGE: Final = 25
FIELDS: Final = (
    *("list", "name", "tags", "priority"),
    *("column", "id_column", "on_invalid", "unique"),
)
MOST_SHOWN_AGAIN: Final = 100_000
"""Characters of a pasted list that are shown again beside an error."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The filter of the list."""

    state: str | None = None
    name: str = ""
    tag: str = ""
    cursor: str | None = None


def _wanted(
    state: str = "", name: str = "", tag: str = "", cursor: Annotated[str | None, Query()] = None
) -> Wanted:
    return Wanted(
        state=state if state in STATES else None,
        name=name.strip(),
        tag=tag.strip(),
        cursor=cursor or None,
    )


@router.get("/")
def show(  # noqa: PLR0913, PLR0917  (the query's parameters)
    request: Request,
    service: Served,
    state: str = "",
    name: str = "",
    tag: str = "",
    cursor: str | None = None,
    part_of: Annotated[str, Query(alias="part")] = "",
) -> Response:
    wanted = _wanted(state, name, tag, cursor)
    found = _id_of(service, wanted.name)
    if found and not part_of:
        return RedirectResponse(f"/jobs/{found}", 303)
    values = _list(service, wanted)
    if part_of == "jobs":
        html = part("_jobs.html", request.state.session, **values)
        return HTMLResponse(html, 200, {"Cache-Control": "no-store"})
    return page(request, "start.html", **values, **_form(service, None, None))


@router.post("/jobs")
def begin(request: Request, service: Served, key: Caller, form: Form) -> Response:
    try:
        job = begin_job(service, key, form)
    except (Refused, ResnextQueueError) as error:
        status = error.status if isinstance(error, Refused) else 422
        values = _list(service, Wanted()) | _form(service, form, str(error))
        return page(request, "start.html", status, **values)
    return RedirectResponse(f"/jobs/{job}", 303)


def _list(service: Service, wanted: Wanted) -> dict[str, Any]:
    chosen = Filter(
        state=wanted.state,
        name=wanted.name or None,
        tags=[wanted.tag] if wanted.tag else (),
        before=None if wanted.cursor is None else number_of(wanted.cursor),
    )
    with reading(service.engine) as connection:
        found = list_jobs(connection, chosen, A_PAGE + 1)
        served = live_workers(connection, service.settings.lease_s)
    jobs = found[:A_PAGE]
    filters = {name: getattr(wanted, name) for name in ("state", "name", "tag", "cursor")}
    return {
        "here": "jobs",
        "jobs": [as_json(job, served) for job in jobs],
        "wanted": wanted,
        "next": cursor_of(jobs[-1].number) if len(found) > A_PAGE else None,
        "is_live": any(not job.is_finished for job in jobs),
        "again": f"/{query(**filters, part='jobs')}",
    }


def _form(service: Service, form: FormData | None, wrong: str | None) -> dict[str, Any]:
    """The form's values. After an error, those that were sent."""
    given = {name: "" if form is None else text_of(form, name) for name in FIELDS}
    more = any(given[name] for name in ("tags", "priority", "column", "id_column", "unique"))
    return {
        "given": given
        | {"more": more, "list": given["list"][:MOST_SHOWN_AGAIN]}
        | {"on_invalid": given["on_invalid"] or "stop"},
        "wrong": wrong,
        "dropped": form is not None,
        "takes_pictures": service.uploads is not None,
    }


def _id_of(service: Service, text: str) -> str | None:
    """The id of the only job whose id begins like this. None: there is none, or several."""
    is_id = len(text) >= MIN_ID_CHARS and all(one in "0123456789abcdef" for one in text)
    if not is_id:
        return None
    try:
        with reading(service.engine) as connection:
            return find_job(connection, text).id
    except UnknownJobError:
        return None
