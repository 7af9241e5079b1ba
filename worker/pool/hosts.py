"""Limits how many images of one host a worker fetches at once, and parks the others.

`worker.pool.scheduler` asks here before it gives out an image, and parks images here that must wait
for their host. So no host has more slots than its share, and an image that waits for its host does
not delay other images.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Generic, Self, TypeVar
from urllib.parse import urlsplit

from contract.flow import host_places, line_images, parked_images
from contract.objects import is_object
from contract.settings import Settings
from contract.uris import is_file
from worker.loader.fetch.web_address import parse_web

# Most URIs match this: a name that is not a number, or an address in its usual form. `parse_web`
# would return the same for them, but takes longer.
_NUMBER = r"(?:0|[1-9][0-9]{0,2})"
_PLAIN: Final = re.compile(
    rf"https?://((?:[a-z0-9-]+\.)*[a-z][a-z0-9-]*|{_NUMBER}(?:\.{_NUMBER}){{3}})(?::[0-9]*)?/"
)

T = TypeVar("T")


def host_of(uri: str) -> str | None:
    """Returns the host of a URI, in the one form in which loaders connect to it. None for files and
    for URIs without a valid host.
    """
    plain = _PLAIN.match(uri)
    if plain is not None:
        return plain[1]
    if is_file(uri):
        return None
    try:
        if is_object(uri):  # its bucket
            return urlsplit(uri).hostname
        return parse_web(uri).host.rstrip(".")
    except ValueError:
        return None


@dataclass(frozen=True, kw_only=True)
class HostLimits:
    places: int
    """Images of one host in flight at once."""
    line: int
    """Images of one host that may be parked."""
    parked: int
    """Images of all hosts that may be parked."""

    @classmethod
    def of(cls, settings: Settings, images_per_s: float | None, parked: int | None) -> Self:
        """
        Args:
            settings: the number of slots, and how many of them one host may have.
            images_per_s: the rate of one host, or None.
            parked: how many images may be parked, of one host or of all. None: computed from the
                slots.
        """
        slots = settings.loaders * settings.fetches_per_loader
        places = host_places(slots=slots, fetches_per_host=settings.fetches_per_host)
        if parked is not None:
            return cls(places=places, line=parked, parked=parked)
        return cls(
            places=places,
            line=line_images(places, images_per_s=images_per_s),
            parked=parked_images(slots=slots),
        )


@dataclass
class _Host(Generic[T]):
    in_flight: int = 0
    line: deque[T] = field(default_factory=deque)
    """Parked images, the oldest first."""
    full: bool = False
    """Whether to park no more until half of the line is gone."""
    permitted: bool = False
    """Whether the rate permits the next image."""
    asked: bool = False
    """Whether the rate was asked and has not answered yet."""


class Hosts(Generic[T]):
    """Owns the counts and the parked images. Every method needs the scheduler's lock."""

    def __init__(
        self,
        limits: HostLimits,
        *,
        when_room: Callable[[], object],
        ask: Callable[[str], object] | None = None,
    ) -> None:
        """
        Args:
            limits: how many images may be in flight and parked.
            when_room: called when more may be parked again.
            ask: called for each image that waits only for the rate; the answer is a call of
                `permit`. None if there is no rate.
        """
        self._limits = limits
        self._when_room = when_room
        self._ask = ask
        self._hosts: dict[str, _Host[T]] = {}
        self._ready: dict[str, None] = {}  # hosts whose next image may go, in the order of turns
        self._parked = 0
        self._full = False

    @property
    def ready(self) -> bool:
        """Whether `take` can return an image."""
        return bool(self._ready)

    def must_wait(self, host: str) -> bool:
        """Whether an image of this host must be parked. Otherwise it may begin."""
        if self._ask is not None:
            return True
        known = self._hosts.get(host)
        return known is not None and (bool(known.line) or known.in_flight >= self._limits.places)

    def has_room(self, host: str) -> bool:
        """Whether an image of this host may be parked."""
        known = self._hosts.get(host)
        return not (self._full or (known is not None and known.full))

    def is_held_up(self, host: str) -> bool:
        """Whether its images wait for the host and not for a slot. Then waiting with more images of
        this host is useless.
        """
        known = self._hosts.get(host)
        if known is None:
            return False
        for_rate = self._ask is not None and bool(known.line) and not known.permitted
        return for_rate or known.in_flight >= self._limits.places

    def begin(self, host: str | None) -> None:
        """Counts an image that goes out and was not parked."""
        if host is None:
            return
        known = self._hosts.get(host)
        if known is None:
            known = self._hosts[host] = _Host()
        known.in_flight += 1

    def end(self, host: str | None) -> None:
        """Counts an image that went out and now has its answer."""
        if host is None:
            return
        known = self._hosts[host]
        known.in_flight -= 1
        if known.line:
            self._turn(host, known)
        elif not (known.in_flight or known.asked):
            del self._hosts[host]

    def park(self, host: str, image: T) -> None:
        known = self._hosts.setdefault(host, _Host())
        known.line.append(image)
        known.full = known.full or len(known.line) >= self._limits.line
        self._parked += 1
        self._full = self._full or self._parked >= self._limits.parked
        self._turn(host, known)

    def take(self) -> T:
        """Returns the next image to go out. Hosts that are ready take turns."""
        host = next(iter(self._ready))
        del self._ready[host]
        known = self._hosts[host]
        image = known.line.popleft()
        known.in_flight += 1
        known.permitted = False
        self._parked -= 1
        self._make_room(known)
        self._turn(host, known)
        return image

    def permit(self, host: str) -> None:
        """Notes that the rate permits one image of this host."""
        known = self._hosts.get(host)
        if known is not None:
            known.asked, known.permitted = False, True
            self._turn(host, known)

    def clear(self) -> None:
        """Drops all parked images."""
        self._ready.clear()
        for known in self._hosts.values():
            known.line.clear()
        self._parked = 0

    def _turn(self, host: str, known: _Host[T]) -> None:
        """If the host has a parked image and a place, marks it as ready or asks the rate."""
        if not known.line or known.in_flight >= self._limits.places:
            return
        if self._ask is None or known.permitted:
            self._ready[host] = None
        elif not known.asked:
            known.asked = True
            self._ask(host)

    def _make_room(self, known: _Host[T]) -> None:
        """Signals room only when half of a line is free, because a caller that waits for room then
        tries all of its images again.
        """
        before = known.full, self._full
        known.full = known.full and len(known.line) > self._limits.line // 2
        self._full = self._full and self._parked > self._limits.parked // 2
        if before != (known.full, self._full):
            self._when_room()
