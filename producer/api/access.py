"""Checks the key of every request before anything else, except for the two health paths.

The header is `Authorization: Bearer KEY`. A key with the scope `read` may GET; everything else
needs `submit`. Without `read` a key may still GET its owner's jobs, so that it can follow what it
submits. Requests are limited per key, and invalid keys per address.
"""

from __future__ import annotations

import re
from collections.abc import Callable
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

# They reveal only that the server is there.
OPEN: Final = frozenset({"/healthz", "/readyz"})
READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# The list of jobs, where `listed` shows such a key only its owner's, and all paths of one job.
_JOBS: Final = re.compile(r"/v1/jobs(?:/(?P<id>[^/]+)(?:/.*)?)?")
# Invalid keys per second that one address may send.
BAD_KEYS_A_SECOND: Final = 10
HOW: Final = (
    "Send the header `Authorization: Bearer KEY`. `resnextq keys create NAME` creates a key; "
    "`up` keeps one in the file api-key of its home."
)
CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="resnextq"'}


class Access:
    """ASGI middleware. Puts the request's key into `request.state.key`."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Keys,
        owner_of: Callable[[str], str | None],
        requests_per_s: int,
    ) -> None:
        """`owner_of` returns a job's owner by its id. None: there is no such job."""
        self._app = app
        self._keys = keys
        self._owner_of = owner_of
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
        """Finds the request's key and checks it.

        Raises:
            Refused: the key is missing or invalid, lacks the scope, or sends too many requests.
        """
        scheme, _, text = Headers(scope=scope).get("authorization", "").partition(" ")
        text = text.strip()
        if scheme.lower() != "bearer" or not text:
            raise Refused(401, f"This needs a key. {HOW}", headers=CHALLENGE)
        address = (scope.get("client") or ("",))[0]
        if not self._limiter.test(self._bad_rate, "bad", address):
            raise _too_many("Your address sent too many requests with invalid keys.")
        is_known, key = self._keys.known(text)
        if not is_known:
            key = await run_in_threadpool(self._keys.find, text)
        if key is None:
            self._limiter.hit(self._bad_rate, "bad", address)
            raise Refused(401, f"This key is unknown or revoked. {HOW}", headers=CHALLENGE)
        if not self._limiter.hit(self._rate, "key", key.id):
            raise _too_many(
                f"The key {key.name!r} may send at most {self._rate.amount} requests per second."
            )
        needed = "read" if scope["method"] in READS else "submit"
        if needed not in key.scopes and not (
            needed == "read" and await self._is_own(scope["path"], key)
        ):
            raise Refused(
                403,
                f"The key {key.name!r} has the scope {' and '.join(key.scopes)}, but this "
                f"request needs {needed}. `resnextq keys create NAME --scope {needed}` creates "
                "such a key.",
            )
        return key

    async def _is_own(self, path: str, key: Key) -> bool:
        """Whether the path shows no other owner's jobs. If the job does not exist, the endpoint
        says so.
        """
        asked = _JOBS.fullmatch(path)
        if asked is None or asked["id"] is None:
            return asked is not None
        return await run_in_threadpool(self._owner_of, asked["id"]) in (None, key.owner)


def _too_many(why: str) -> Refused:
    return Refused(429, f"{why} Wait a second.", headers={"Retry-After": "1"})
