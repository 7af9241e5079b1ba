"""Checks the login of each request, and adds the security headers of each answer.

A browser sends a session's cookie by itself, so every request that changes something must come from
one of our pages. The browser says so (`Sec-Fetch-Site`, `Origin`), and `producer.pages.forms` also
checks the token of the session's forms.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, urlsplit

from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse
from sqlalchemy.exc import DBAPIError
from starlette.datastructures import URL, Headers
from starlette.requests import cookie_parser
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from producer.api.problems import Refused
from producer.pages.html import refusal_page
from producer.pages.sessions import Session, Sessions

# Open to everybody: the login, and static files, which reveal nothing about jobs.
OPEN: Final = ("/login", "/static/")
READS: Final = frozenset({"GET", "HEAD"})
CONTENT_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Final = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    # Without it, forms would have the origin `null`, like those of other sites.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
MOST_TOKEN_CHARS: Final = 200


class Gate:
    """ASGI middleware. Puts the request's session and key into `request.state`."""

    def __init__(self, app: ASGIApp, *, sessions: Sessions) -> None:
        self._app = app
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_missing(message["headers"])]
            await send(message)

        try:
            refused = await self._admit(scope)
        except (Refused, DBAPIError) as error:
            refused = refusal_page(error, None)
        await (refused or self._app)(scope, receive, send_safely)

    async def _admit(self, scope: Scope) -> Response | None:
        """The answer to send instead of the page. None: show the page.

        Raises:
            Refused: another site sent this, or the key may not do it.
        """
        reads = scope["method"] in READS
        if not reads:
            check_origin(scope)
        session = await self._session_of(scope)
        scope.setdefault("state", {}).update(session=session, key=session and session.key)
        if scope["path"].startswith(OPEN):
            return None
        if session is None:
            if not reads:
                raise Refused(
                    401, "You are not logged in any more. Log in, and send the form again."
                )
            return RedirectResponse(f"/login?next={quote(_path_of(scope), safe='/')}", 303)
        needed = "read" if reads or scope["path"] == "/logout" else "submit"
        if needed not in session.key.scopes:
            raise Refused(
                403,
                f"The key {session.key.name!r} may not do this: it lacks the scope {needed}. "
                f"`resnextq keys create NAME --scope read --scope {needed}` creates such a key.",
            )
        return None

    async def _session_of(self, scope: Scope) -> Session | None:
        cookie = Headers(scope=scope).get("cookie", "")
        token = cookie_parser(cookie).get(cookie_name(scope), "") if cookie else ""
        if not token or len(token) > MOST_TOKEN_CHARS:
            return None
        return self._sessions.known(token) or await run_in_threadpool(self._sessions.find, token)


def check_origin(scope: Scope) -> None:
    """Checks that one of our pages sent the request.

    Raises:
        Refused: according to the browser, the request came from elsewhere.
    """
    headers = Headers(scope=scope)
    site = headers.get("sec-fetch-site")
    origin = headers.get("origin", "")
    ours = urlsplit(origin).netloc == headers.get("host") and bool(origin)
    if (site is None and not ours) or site not in {None, "same-origin"} or (origin and not ours):
        raise Refused(
            403,
            "This was not sent by a page of this server, so nothing was done: the headers Origin "
            "or Sec-Fetch-Site, which a browser sends, do not show it. A proxy in front of the "
            "server must pass on the header Host unchanged. A program uses the API with a key.",
        )


def cookie_name(scope: Scope) -> str:
    """The cookie's name. It contains the port, because servers on one machine share cookies
    whatever their ports. Over TLS, the prefix makes the browser bind the cookie to this host.
    """
    name = f"resnextq-{(scope.get('server') or ('', 0))[1]}"
    return f"__Host-{name}" if is_secure(scope) else name


def is_secure(scope: Scope) -> bool:
    return bool(scope["scheme"] == "https")


def _path_of(scope: Scope) -> str:
    url = URL(scope=scope)
    return f"{url.path}?{url.query}" if url.query else url.path


def _missing(there: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    known = {name for name, _ in there}
    pairs = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
    return [(name, value) for name, value in pairs if name not in known]
