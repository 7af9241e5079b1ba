"""Lets in who has a key: before anything else is looked at, and for every path but two.

`Authorization: Bearer KEY`. A key with the scope `read` may GET; everything else needs `submit`.
Each key has its own rate, and so has each address that sends keys that are none.
"""

from __future__ import annotations

from typing import Final

from fastapi.concurrency import run_in_threadpool
from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from sqlalchemy.exc import DBAPIError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from producer.api.keys import Key, Keys
from producer.api.problems import Refused, answer_for

# They tell nobody anything but that the server is there.
OPEN: Final = frozenset({"/healthz", "/readyz"})
READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# Keys that are none, of one address, in a second.
BAD_KEYS_A_SECOND: Final = 10
HOW: Final = (
    "Send the header `Authorization: Bearer KEY`. `resnextq keys create NAME` makes a key; `up` "
    "keeps one in the file api-key of its home."
)
CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="resnextq"'}


class Access:
    """ASGI middleware; the request's key is `request.state.key`."""

    def __init__(self, app: ASGIApp, *, keys: Keys, requests_per_s: int) -> None:
        self._app = app
        self._keys = keys
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self._rate = RateLimitItemPerSecond(requests_per_s)
        self._bad_rate = RateLimitItemPerSecond(BAD_KEYS_A_SECOND)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN:
            try:
                key = await self._admit(scope)
            except (Refused, DBAPIError) as error:
                await answer_for(error)(scope, receive, send)
                return
            scope.setdefault("state", {})["key"] = key
        await self._app(scope, receive, send)

    async def _admit(self, scope: Scope) -> Key:
        """
        Raises:
            Refused: without a key, beyond its scope or faster than it may.
        """
        scheme, _, text = Headers(scope=scope).get("authorization", "").partition(" ")
        text = text.strip()
        if scheme.lower() != "bearer" or not text:
            raise Refused(401, f"This needs a key. {HOW}", headers=CHALLENGE)
        address = (scope.get("client") or ("",))[0]
        if not self._limiter.test(self._bad_rate, "bad", address):
            raise _too_many("Too many requests with keys that are none came from your address.")
        is_known, key = self._keys.known(text)
        if not is_known:
            key = await run_in_threadpool(self._keys.find, text)
        if key is None:
            self._limiter.hit(self._bad_rate, "bad", address)
            raise Refused(401, f"There is no such key, or it was revoked. {HOW}", headers=CHALLENGE)
        if not self._limiter.hit(self._rate, "key", key.id):
            raise _too_many(f"The key {key.name!r} may send {self._rate.amount} requests a second.")
        needed = "read" if scope["method"] in READS else "submit"
        if needed not in key.scopes:
            raise Refused(
                403,
                f"The key {key.name!r} has the scope {' and '.join(key.scopes)}; this needs "
                f"{needed}. `resnextq keys create NAME --scope {needed}` makes such a key.",
            )
        return key


def _too_many(why: str) -> Refused:
    return Refused(429, f"{why} Wait a second.", headers={"Retry-After": "1"})
