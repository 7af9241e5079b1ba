"""`/login` and `/logout`: turn a key, or a link that works once, into a session's cookie."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from starlette.datastructures import FormData

from producer.api.keys import Keys
from producer.api.problems import Refused
from producer.pages.forms import Form, text_of
from producer.pages.gate import cookie_name, is_secure
from producer.pages.html import page
from producer.pages.sessions import LASTS_S, Sessions

router = APIRouter()

# Invalid keys and links per minute that one address may try.
BAD_TRIES_A_MINUTE: Final = 10
MOST_FORM_BYTES: Final = 4_096


class Doorkeeper:
    """Begins sessions, and slows down guessing of keys. One per server."""

    def __init__(self, keys: Keys, sessions: Sessions) -> None:
        self.sessions = sessions
        self._keys = keys
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self._rate = RateLimitItemPerMinute(BAD_TRIES_A_MINUTE)

    def begin(self, address: str, *, key: str, link: str) -> str:
        """Begins a session and returns its token.

        Raises:
            Refused: there were too many tries, or neither key nor link is valid.
        """
        if not self._limiter.test(self._rate, "login", address):
            raise Refused(429, "Too many tries from your address. Wait a minute.")
        try:
            return self._begin(key=key, link=link)
        except Refused:
            self._limiter.hit(self._rate, "login", address)
            raise

    def _begin(self, *, key: str, link: str) -> str:
        if link:
            token = self.sessions.take_link(link)
            if token is None:
                raise Refused(
                    401,
                    "This link has been used or has expired. `resnextq login` prints a new one. "
                    "Or log in with a key.",
                )
            return token
        found = self._keys.find(key) if key else None
        if found is None:
            raise Refused(401, "This key is unknown or revoked.")
        if "read" not in found.scopes:
            raise Refused(
                403, f"The key {found.name!r} lacks the scope read, so there is nothing to show."
            )
        return self.sessions.begin(found.id)


async def _read(request: Request) -> FormData:
    """Reads the login form, which has no token and must be small.

    Raises:
        Refused: the form is too large.
    """
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_FORM_BYTES:
            raise Refused(413, "This is too long for a key.", headers={"Connection": "close"})

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": bytes(body), "more_body": False}

    return await Request(request.scope, receive).form()


@router.get("/login")
def show(request: Request, link: str = "", next: str = "/") -> Response:  # noqa: A002  (a parameter's name)
    """A field for the key. With a link: a form that sends itself."""
    if request.state.session is not None:
        return RedirectResponse(_within(next), 303)
    return page(request, "login.html", link=link, next=_within(next), wrong=None)


@router.post("/login")
async def log_in(request: Request, form: Annotated[FormData, Depends(_read)]) -> Response:
    doorkeeper: Doorkeeper = request.app.state.doorkeeper
    address = request.client.host if request.client else ""
    following = _within(text_of(form, "next"))
    try:
        token = await run_in_threadpool(
            doorkeeper.begin, address, key=text_of(form, "key"), link=text_of(form, "link")
        )
    except Refused as refused:
        wrong = refused.detail
        return page(request, "login.html", refused.status, link="", next=following, wrong=wrong)
    answer = RedirectResponse(following, 303)
    answer.set_cookie(
        cookie_name(request.scope),
        token,
        max_age=int(LASTS_S),
        path="/",
        secure=is_secure(request.scope),
        httponly=True,
        samesite="strict",
    )
    return answer


@router.post("/logout")
def log_out(request: Request, form: Form) -> Response:  # noqa: ARG001  (its token is checked)
    request.app.state.doorkeeper.sessions.end(request.state.session.token)
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(
        cookie_name(request.scope),
        path="/",
        secure=is_secure(request.scope),
        httponly=True,
        samesite="strict",
    )
    return answer


def _within(path: str) -> str:
    """The path if it leads to one of our pages, otherwise `/`."""
    parts = urlsplit(path)
    ours = path.startswith("/") and not path.startswith("//") and "\\" not in path
    return path if ours and not parts.netloc and path.isprintable() else "/"
