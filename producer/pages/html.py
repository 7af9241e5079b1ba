"""Renders templates: formats values for a page and makes sure that none of them is markup.

Everything that a template writes is escaped. Control characters and marks that change the direction
of text are shown as escapes, as on the command line (`contract.log`).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape
from sqlalchemy.exc import DBAPIError

from contract.failure import ErrorCode, describe, is_known
from contract.log import in_lines, in_one_line
from producer.api.problems import Refused
from producer.jobs.job import GIVEN_UP
from producer.jobs.served import start_one
from producer.jobs.span import span
from producer.pages.sessions import Session

log = logging.getLogger(__name__)

FOLDER: Final = Path(__file__).parent
STATIC: Final = {path.name: path.read_bytes() for path in sorted((FOLDER / "static").iterdir())}
DIGESTS: Final = {name: hashlib.sha256(text).hexdigest()[:16] for name, text in STATIC.items()}
MEDIA_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
STATES: Final = ("submitting", "running", "completed", "cancelled", "expired")
KIB: Final = 1024


def count(number: float) -> str:
    """`12,345`."""
    return f"{number:,.0f}"


def percent(share: float) -> str:
    """`45%`, `0.3%`, `<0.1%`: 100% only for everything, and 0% only for nothing."""
    if 0 < share < 0.001:  # noqa: PLR2004
        return "<0.1%"
    if 0.9995 <= share < 1:  # noqa: PLR2004
        return ">99.9%"
    return f"{share:.1%}" if 0 < share < 0.0995 or 0.995 <= share < 1 else f"{share:.0%}"  # noqa: PLR2004


def rate(images_per_s: float) -> str:
    """`1,234`, `12.3`, `0.25`."""
    if images_per_s >= 100:  # noqa: PLR2004
        return f"{images_per_s:,.0f}"
    return f"{images_per_s:.1f}" if images_per_s >= 1 else f"{images_per_s:.2g}"


def size(count_of_bytes: int) -> str:
    """`812 bytes`, `34 KiB`, `1.2 MiB`."""
    if count_of_bytes < KIB:
        return f"{count_of_bytes} bytes"
    if count_of_bytes < KIB**2:
        return f"{count_of_bytes / KIB:.0f} KiB"
    return f"{count_of_bytes / KIB**2:.1f} MiB"


def milliseconds(number: float) -> str:
    """`0.4 ms`, `12 ms`, `1.3 s`."""
    if number >= 1000:  # noqa: PLR2004
        return f"{number / 1000:.3g} s"
    return f"{number:.0f} ms" if number >= 10 else f"{number:.2g} ms"  # noqa: PLR2004


def when(moment: datetime | str) -> Markup:
    """A moment to the minute, in UTC. The script converts it to the reader's time zone."""
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    moment = moment.astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        moment.isoformat(timespec="seconds"), f"{moment:%Y-%m-%d %H:%M} UTC"
    )


def web_address(uri: str) -> str | None:
    """The URI if it is an http or https URL. Nothing else becomes a link."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return None
    ok = parts.scheme in {"http", "https"} and bool(parts.netloc) and uri.isprintable()
    return uri if ok and " " not in uri else None


def explain(code: str) -> ErrorCode | None:
    """Cause and advice for an error code, if this version knows it."""
    return describe(code) if is_known(code) else None


def given_up(job: Mapping[str, Any]) -> dict[str, int]:
    """A job's failed images that were never tried to the end, by reason."""
    return {code: job["errors"][code] for code in GIVEN_UP if code in job["errors"]}


def at_fault(job: Mapping[str, Any]) -> int:
    """Number of the other failed images."""
    return max(0, int(job["failed"]) - sum(given_up(job).values()))


def start_worker(job: Mapping[str, Any]) -> str:
    """The command that starts a worker for the job."""
    return start_one(job["model"], job["weights"], job["precision"])


def query(**values: object) -> str:
    """A query such as `?label=tabby&min_score=0.5`, without empty values."""
    given = {name: value for name, value in values.items() if value not in (None, "")}
    return f"?{urlencode(given, doseq=True)}" if given else ""


def lines(text: str) -> Markup:
    """A text of several lines, for a text area."""
    return escape(in_lines(text.replace("\r\n", "\n")))


def shorten(text: str, most: int = 200) -> str:
    """The text, cut off if it is too long."""
    return text if len(text) <= most else f"{text[:most]}…"


def _finalize(value: object) -> object:
    return in_one_line(value) if isinstance(value, str) and type(value) is not Markup else value


def _static(name: str) -> str:
    """The URL of a static file. It contains a digest, so browsers can cache the file for ever."""
    stem, _, end = name.rpartition(".")
    return f"/static/{stem}.{DIGESTS[name]}.{end}"


@pass_context
def _token(context: Context) -> Markup:
    """A hidden field with the session's token, for each form that changes something."""
    field = Markup('<input type="hidden" name="token" value="{}">')
    return field.format(context["viewer"]["form_token"])


TEMPLATES: Final = Environment(
    loader=FileSystemLoader(FOLDER / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_finalize,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters |= {
    "count": count,
    "percent": percent,
    "rate": rate,
    "size": size,
    "span": span,
    "when": when,
    "web_address": web_address,
    "explain": explain,
    "lines": lines,
    "shorten": shorten,
    "given_up": given_up,
    "at_fault": at_fault,
    "start_worker": start_worker,
}
TEMPLATES.globals |= {"static": _static, "query": query, "token": _token, "STATES": STATES}


def page(request: Request, template: str, status: int = 200, **values: Any) -> Response:  # noqa: ANN401
    """A page for the login of this request."""
    return _answer(template, request.state.session, status, values)


def part(template: str, session: Session | None, **values: Any) -> str:  # noqa: ANN401
    """A part of a page, with which the script replaces the current one."""
    return TEMPLATES.get_template(template).render(viewer=_viewer(session), **values)


def refusal_page(error: Exception, session: Session | None) -> Response:
    """An error page for people."""
    status, detail, headers = 500, "A fault in this program. The server's log has the details.", {}
    if isinstance(error, Refused):
        status, detail, headers = error.status, error.detail, error.headers
    elif isinstance(error, DBAPIError):
        log.warning("Database error: %s", str(error.orig).strip().partition("\n")[0])
        status, detail = 503, "The database does not answer. Try again."
    answer = _answer("problem.html", session, status, {"detail": detail})
    answer.headers.update(headers)
    return answer


def static_file(name: str) -> Response:
    """A static file.

    Raises:
        Refused: there is no such file.
    """
    stem, _, rest = name.partition(".")
    digest, _, end = rest.partition(".")
    found = f"{stem}.{end}"
    if DIGESTS.get(found) != digest:
        raise Refused(404, "There is no such file.")
    media_type = MEDIA_TYPES[f".{end}"]
    headers = {"Cache-Control": "public, max-age=31536000, immutable"}
    return Response(STATIC[found], 200, headers, media_type)


def _answer(
    template: str, session: Session | None, status: int, values: dict[str, Any]
) -> Response:
    html = part(template, session, **({"here": None} | values))
    return HTMLResponse(html, status, {"Cache-Control": "no-store"})


def _viewer(session: Session | None) -> dict[str, Any] | None:
    """What a template may know about the user."""
    if session is None:
        return None
    return {
        "name": session.key.name,
        "may_change": "submit" in session.key.scopes,
        "form_token": session.form_token,
    }
