"""Hosts that a worker fetches from: how many images of each at a time, and which ones wait.

The pool of the loaders asks here before it gives an image out, and parks here what has to wait
for its host. So no host holds more slots than its share, and an image whose host has none free
keeps no other one waiting.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar
from urllib.parse import urlsplit

from contract.uris import is_file

# As most URIs are written: there is nothing that `urlsplit`, which takes longer, would change.
_PLAIN: Final = re.compile(r"https?://([a-z0-9.-]*[a-z0-9])(?::[0-9]*)?/")

T = TypeVar("T")


def host_of(uri: str) -> str | None:
    """In lower case; None of a file, and where no loader will find a host either."""
    plain = _PLAIN.match(uri)
    if plain is not None:
        return plain[1]
    if is_file(uri):
        return None
    try:
        host = urlsplit(uri).hostname
    except ValueError:
        return None
    return host.rstrip(".") if host else None


@dataclass
class _Host(Generic[T]):
    fetching: int = 0
    line: deque[T] = field(default_factory=deque)
    """Parked, the oldest first."""
    full: bool = False
    """Nothing more is parked, until half of the line has gone."""
    permitted: bool = False
    """The rate lets its next image go."""
    asked: bool = False


class Hosts(Generic[T]):
    """Owns the counts and the parked images. Safe under the lock of its pool alone."""

    def __init__(
        self,
        *,
        places: int,
        line: int,
        parked: int,
        when_room: Callable[[], object],
        ask: Callable[[str], object] | None = None,
    ) -> None:
        """
        Args:
            places: images of one host that are fetched at a time.
            line: images of one host that are parked, at most.
            parked: the same of all hosts.
            when_room: called when more may be parked again.
            ask: called for each image that may go but for the rate; `permit` is the answer.
                None: there is no rate.
        """
        self._places = places
        self._longest_line = line
        self._most_parked = parked
        self._when_room = when_room
        self._ask = ask
        self._hosts: dict[str, _Host[T]] = {}
        self._ready: dict[str, None] = {}  # hosts whose next image may go, in the order of turns
        self._parked = 0
        self._full = False

    @property
    def ready(self) -> bool:
        """Whether `take` has something to give."""
        return bool(self._ready)

    def must_wait(self, host: str) -> bool:
        """Whether an image of this host is to be parked; else it may begin."""
        if self._ask is not None:
            return True
        known = self._hosts.get(host)
        return known is not None and (bool(known.line) or known.fetching >= self._places)

    def has_room(self, host: str) -> bool:
        """Whether an image of it may be parked."""
        known = self._hosts.get(host)
        return not (self._full or (known is not None and known.full))

    def is_held_up(self, host: str) -> bool:
        """Whether its images wait for itself, not for a slot: then it is no use to wait with
        more of them.
        """
        known = self._hosts.get(host)
        if known is None:
            return False
        for_rate = self._ask is not None and bool(known.line) and not known.permitted
        return for_rate or known.fetching >= self._places

    def begin(self, host: str | None) -> None:
        """An image of it goes out that was never parked."""
        if host is not None:
            self._hosts.setdefault(host, _Host()).fetching += 1

    def end(self, host: str | None) -> None:
        """An image that has gone out is fetched, or is not to be had."""
        if host is None:
            return
        known = self._hosts[host]
        known.fetching -= 1
        self._turn(host, known)
        if not (known.fetching or known.line or known.asked):
            del self._hosts[host]

    def park(self, host: str, image: T) -> None:
        known = self._hosts.setdefault(host, _Host())
        known.line.append(image)
        known.full = known.full or len(known.line) >= self._longest_line
        self._parked += 1
        self._full = self._full or self._parked >= self._most_parked
        self._turn(host, known)

    def take(self) -> T:
        """An image that goes out: the hosts that are ready have their turns one by one."""
        host = next(iter(self._ready))
        del self._ready[host]
        known = self._hosts[host]
        image = known.line.popleft()
        known.fetching += 1
        known.permitted = False
        self._parked -= 1
        self._make_room(known)
        self._turn(host, known)
        return image

    def permit(self, host: str) -> None:
        """The rate lets one image of it go."""
        known = self._hosts.get(host)
        if known is not None:
            known.asked, known.permitted = False, True
            self._turn(host, known)

    def clear(self) -> None:
        """Nothing that is parked goes out any more."""
        self._ready.clear()
        for known in self._hosts.values():
            known.line.clear()
        self._parked = 0

    def _turn(self, host: str, known: _Host[T]) -> None:
        """Its next image is ready, or is asked for, if there is one and a place for it."""
        if not known.line or known.fetching >= self._places:
            return
        if self._ask is None or known.permitted:
            self._ready[host] = None
        elif not known.asked:
            known.asked = True
            self._ask(host)

    def _make_room(self, known: _Host[T]) -> None:
        """Told in larger pieces: whoever waits for room asks for each of its images anew."""
        before = known.full, self._full
        known.full = known.full and len(known.line) > self._longest_line // 2
        self._full = self._full and self._parked > self._most_parked // 2
        if before != (known.full, self._full):
            self._when_room()
