"""Checks the dashboard's login, and slows down clients that guess it.

Flower itself allows any number of guesses, and fails if a login is not ASCII. So the real login is
checked here. Flower knows a random one, which replaces the right one in each request.
"""

from __future__ import annotations

import hmac
import logging
import secrets
from base64 import b64decode, b64encode
from typing import Any, Final

from flower.app import Flower
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from tornado.httputil import HTTPServerRequest
from tornado.web import RequestHandler

log = logging.getLogger(__name__)

WRONG_LOGINS_A_MINUTE: Final = 10
"""Per address and minute. Further logins are refused without a check."""
HEADER: Final = "Authorization"
TOO_MANY: Final = "Your address has sent too many wrong logins. Wait a minute."


class Logins:
    """Knows the login, and how many wrong ones each address has sent."""

    def __init__(self, login: str) -> None:
        """`login` has the form user:password."""
        self.inner = f"flower:{secrets.token_urlsafe()}"
        """The random login that Flower knows."""
        self._login = login.encode()
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self._rate = RateLimitItemPerMinute(WRONG_LOGINS_A_MINUTE)

    def admit(self, request: HTTPServerRequest) -> bool:
        """Replaces the right login by Flower's, and removes a wrong one.

        Returns False if the request must be refused, because its address has sent too many.
        """
        sent = request.headers.pop(HEADER, None)
        if sent is None:
            return True
        address = str(request.remote_ip)
        if not self._limiter.test(self._rate, address):
            return False
        if self._is_right(sent):
            request.headers[HEADER] = f"Basic {b64encode(self.inner.encode()).decode()}"
        else:
            self._limiter.hit(self._rate, address)
            if not self._limiter.test(self._rate, address):
                log.warning("Too many wrong logins from %s. It is refused for a minute.", address)
        return True

    def _is_right(self, header: str) -> bool:
        scheme, _, coded = header.partition(" ")
        try:
            login = b64decode(coded.strip(), validate=True)
        except ValueError:
            return False
        return scheme.lower() == "basic" and hmac.compare_digest(login, self._login)


class TooMany(RequestHandler):
    """The answer to a login that is refused without a check."""

    def prepare(self) -> None:
        self.set_status(429)
        self.set_header("Retry-After", "60")
        self.set_header("Content-Type", "text/plain; charset=UTF-8")
        self.finish(TOO_MANY)


class Dashboard(Flower):  # type: ignore[misc]  # Flower has no types
    """Flower behind these logins."""

    def __init__(self, *, logins: Logins, **options: Any) -> None:  # noqa: ANN401  (Flower's)
        self._logins = logins
        super().__init__(**options)

    def find_handler(self, request: HTTPServerRequest, **options: Any) -> Any:  # noqa: ANN401
        """Tornado calls this first for each request."""
        if not self._logins.admit(request):
            return self.get_handler_delegate(request, TooMany)
        return super().find_handler(request, **options)
