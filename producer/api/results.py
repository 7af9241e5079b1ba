"""The endpoints of results, classes and errors.

Results come as a page of JSON, or all of them as a stream of JSONL, CSV or Parquet. Each window is
read in its own transaction, so that a slow client holds nothing in the database.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Annotated, Any, Final, Literal

import orjson
from fastapi import APIRouter, Header, Query
from fastapi.responses import Response, StreamingResponse
from sqlalchemy import ColumnElement

from contract.database.engine import reading
from producer.api.cursors import Cursor, cursor_of, number_of
from producer.api.problems import Refused, responses
from producer.api.service import Served, Service, json_answer
from producer.api.shapes import ClassesOut, ErrorsOut, ResultsOut
from producer.jobs.classes import as_json, count_classes
from producer.jobs.export.choice import Choice
from producer.jobs.export.jsonl import JsonLines
from producer.jobs.export.rows import Row, Vocabulary
from producer.jobs.export.table import Table
from producer.jobs.export.window import POSITIONS, Windows
from producer.jobs.failures import count_failures
from producer.jobs.job import Job

router = APIRouter(prefix="/v1/jobs", tags=["results"])

MOST_CLASSES: Final = 1_000
MOST_ERRORS: Final = 10_000
Only = Literal["classified", "failed"]
OnlyQuery = Annotated[Only | None, Query(description="Only classified or only failed images.")]
LabelQuery = Annotated[
    list[str] | None, Query(description="The top class. If several, any of them.")
]
MinScoreQuery = Annotated[
    float | None,
    Query(ge=0, le=1, allow_inf_nan=False, description="Lowest score of the top class."),
]


JSON: Final = "application/json"
JSONL: Final = "application/x-ndjson"
CSV: Final = "text/csv"
PARQUET: Final = "application/vnd.apache.parquet"
TYPES: Final = (JSON, JSONL, CSV, PARQUET)
MOST_ROWS: Final = 10_000
# Windows that one page reads at most. If few images match, the page is short and has a next one.
WINDOWS_A_PAGE: Final = 50


@router.get(
    "/{job_id}/results",
    response_class=Response,
    responses={
        200: {
            "model": ResultsOut,
            "content": {one: {"schema": {"type": "string"}} for one in TYPES[1:]},
        },
        **responses(404, 406),
    },
)
def settled(  # noqa: PLR0913, PLR0917  (the query's parameters)
    service: Served,
    job_id: str,
    only: OnlyQuery = None,
    label: LabelQuery = None,
    min_score: MinScoreQuery = None,
    error: Annotated[
        list[str] | None, Query(description="Error codes. If several, any of them.")
    ] = None,
    limit: Annotated[
        int | None,
        Query(ge=1, le=MOST_ROWS, description="Images on a page of JSON; 1,000 by default."),
    ] = None,
    cursor: Cursor = None,
    accept: Annotated[str, Header(include_in_schema=False)] = "*/*",  # OpenAPI ignores it
) -> Response:
    """Finished images in the order of the submit: a page of JSON, or all as a stream by
    `Accept`.
    """
    media_type = _wanted_type(accept)
    job = service.job(job_id)
    choice = Choice(
        only=only,
        labels=tuple(label or ()),
        min_score=min_score,
        errors=tuple(error or ()),
        after=None if cursor is None else number_of(cursor),
    )
    windows = _windows(service, job, choice, media_type)
    if media_type == JSON:
        return _page(service, job, choice, windows, limit or 1_000)
    if limit is not None:
        raise Refused(422, "limit applies only to pages of JSON. A stream has all finished images.")
    stream = _STREAMS[media_type](service, job, choice, windows)
    name = f"{job.id}.{_ENDINGS[media_type]}"
    headers = {
        "Cache-Control": "no-store",
        "Content-Disposition": f'attachment; filename="{name}"',
    }
    return StreamingResponse(stream, media_type=media_type, headers=headers)


@router.get("/{job_id}/classes", responses={200: {"model": ClassesOut}, **responses(404)})
def classes(
    service: Served, job_id: str, limit: Annotated[int, Query(ge=1, le=MOST_CLASSES)] = 100
) -> Response:
    """Number of images by top class."""
    job = service.job(job_id)
    with reading(service.engine) as connection:
        found = count_classes(connection, job.number, limit)
    return json_answer({"classes": as_json(found)})


@router.get("/{job_id}/errors", responses={200: {"model": ErrorsOut}, **responses(404)})
def errors(
    service: Served, job_id: str, limit: Annotated[int, Query(ge=1, le=MOST_ERRORS)] = 1_000
) -> Response:
    """Number of failed images by error code and host."""
    job = service.job(job_id)
    with reading(service.engine) as connection:
        found = count_failures(connection, job.id, limit)
    return json_answer({"errors": found})


def _wanted_type(accept: str) -> str:
    """The first type in the header that this API offers.

    Raises:
        Refused: it offers none of them.
    """
    for part in accept.split(","):
        wanted = part.partition(";")[0].strip().lower()
        if wanted in TYPES:
            return wanted
        if wanted in {"*/*", "application/*", ""}:
            return JSON
        if wanted == "text/*":
            return CSV
    raise Refused(406, f"Results come as {', '.join(TYPES)}, but Accept is {accept[:200]!r}.")


def _windows(service: Service, job: Job, choice: Choice, media_type: str) -> Windows:
    with reading(service.engine) as connection:
        where = choice.conditions(connection, job)
    more: Sequence[ColumnElement[Any]] = ()
    if media_type == PARQUET:
        if find_spec("pyarrow") is None:
            raise Refused(
                406,
                "This server has no pyarrow, so it cannot write Parquet. Ask for JSONL instead.",
            )
        from producer.jobs.export.parquet import more_columns  # noqa: PLC0415  (needs pyarrow)

        more = more_columns(service.engine.dialect.name)
    return Windows(service.engine, job.number, where, more)


def _page(service: Service, job: Job, choice: Choice, windows: Windows, limit: int) -> Response:
    rows, at = list[Row](), choice.start
    for _ in range(WINDOWS_A_PAGE):
        if at >= job.total or len(rows) >= limit:
            break
        # If all images are wanted, a page needs only as many positions as rows.
        step = POSITIONS if choice.is_narrow else limit - len(rows)
        found = windows.read(at, min(at + step, job.total))
        rows += found
        at = min(at + step, job.total)
    if len(rows) > limit:
        del rows[limit:]
        at = rows[-1][0] + 1
    service.job(job.id)  # fails if the job was marked for deletion, so all rows read are complete
    following = None if at >= job.total else cursor_of(at - 1)
    lines = JsonLines(Vocabulary(service.engine, job)).encode(rows).rstrip(b"\n")
    body = b'{"results":[%b],"next":%b}' % (
        lines.replace(b"\n", b","),
        orjson.dumps(following),
    )
    return Response(body, 200, {"Cache-Control": "no-store"}, JSON)


def _parts(service: Service, job: Job, choice: Choice, windows: Windows) -> Iterator[list[Row]]:
    """The chosen rows, window by window.

    Raises:
        UnknownJobError: the job was deleted meanwhile. The stream breaks off.
    """
    for start in range(choice.start, job.total, POSITIONS):
        yield windows.read(start, min(start + POSITIONS, job.total))
    service.job(job.id)


def _lines(service: Service, job: Job, choice: Choice, windows: Windows) -> Iterator[bytes]:
    form = JsonLines(Vocabulary(service.engine, job))
    for rows in _parts(service, job, choice, windows):
        yield form.encode(rows)


def _table(service: Service, job: Job, choice: Choice, windows: Windows) -> Iterator[bytes]:
    form = Table(Vocabulary(service.engine, job))
    yield form.head()
    for rows in _parts(service, job, choice, windows):
        yield form.encode(rows)


def _parquet(service: Service, job: Job, choice: Choice, windows: Windows) -> Iterator[bytes]:
    from producer.jobs.export.parquet import ParquetFile  # noqa: PLC0415  (needs pyarrow)

    file = _Passed()
    form = ParquetFile(file, Vocabulary(service.engine, job))
    try:
        for rows in _parts(service, job, choice, windows):
            form.write(rows)
            yield file.take()
        form.close()
    except BaseException:
        form.abandon()
        raise
    yield file.take()


class _Passed(io.BytesIO):
    """A file whose content is taken away. `tell` still counts from the beginning."""

    def __init__(self) -> None:
        super().__init__()
        self._taken = 0

    def take(self) -> bytes:
        content = self.getvalue()
        self._taken += len(content)
        super().seek(0)
        self.truncate()
        return content

    def tell(self) -> int:
        return self._taken + super().tell()


_STREAMS: Final = {JSONL: _lines, CSV: _table, PARQUET: _parquet}
_ENDINGS: Final = {JSONL: "jsonl", CSV: "csv", PARQUET: "parquet"}
