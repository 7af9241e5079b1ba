"""Checks at submit which images workers would accept.

Runs hold only plain URIs, so they need no closer look. A refused line stops the submit, is left
out, or becomes an image that failed at its position, as `--on-invalid` says.
`producer.submit.groups` takes the result.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

from contract.errors import SourceError
from contract.failure import Failure
from contract.uris import (
    DEFAULT_PORTS,
    MAX_URI_CHARS,
    OUTSIDE_ROOTS,
    has_scheme,
    refusal,
    refusal_of_port,
)
from producer.submit.sources.entry import Bad, Entry, Image, Run, Values, apart, shorten
from producer.submit.sources.runs import MAX_REF_CHARS

# Enough to see what is wrong with a list, few enough to read.
MAX_REFUSALS: Final = 10
SHOWN_ALIKE: Final = 3
# How many more entries are searched for refusals after the first one.
ENTRIES_AFTER_REFUSAL: Final = 100_000
# Number of reasons that are counted separately. It bounds the memory.
MAX_REASONS: Final = 50
OTHER_REASONS: Final = "other reasons"
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")


class OnInvalid(StrEnum):
    """What to do with a line or row that gives no image acceptable to workers."""

    stop = "stop"
    skip = "skip"
    record = "record"


class RefusedError(SourceError):
    """A URI is refused or a line has none, and `--on-invalid` is `stop`.

    `outside_roots`: it names a file that is under no folder of `RESNEXT_FILE_ROOTS`.
    """

    outside_roots = False


class Failed(NamedTuple):
    """An image that has failed before any worker saw it."""

    uri: str
    """The URI, or the text in its place, in a form that both databases can store."""
    ref: str | None
    failure: Failure
    values: Values | None = None


@dataclass
class Findings:
    """What the sources held besides valid images, for messages and for `--dry-run`."""

    refused: Counter[str] = field(default_factory=Counter)
    """Refused lines and rows by reason."""
    reports: list[str] = field(default_factory=list)
    """The first few refusals: place, value, reason."""
    duplicates: int = 0
    sampled_from: int = 0
    """Number of images from which the sample was taken."""

    def note(self, report: str, reason: str) -> None:
        known = reason in self.refused or len(self.refused) < MAX_REASONS
        self.refused[reason if known else OTHER_REASONS] += 1
        if len(self.reports) < MAX_REFUSALS:
            self.reports.append(report)


class Refusal(NamedTuple):
    reason: str
    """The same words for the same kind of fault, so that refusals can be counted by reason."""
    advice: str = ""
    code: str = "bad_uri"
    """The error code of an image that is recorded in spite of this."""

    def __str__(self) -> str:
        return f"{self.reason}; {self.advice}" if self.advice else self.reason


@dataclass(frozen=True)
class Rules:
    """What the settings allow."""

    file_roots: Sequence[Path]
    fetch_ports: Collection[int] = ()
    object_stores: Collection[str] = ()

    def refusal_of(self, image: Entry | Bad) -> Refusal | None:
        """Why a worker would refuse this image, with advice. None: it would accept it."""
        if isinstance(image, Bad):
            return Refusal(image.reason, image.advice)
        uri, ref = image.uri, image.ref
        is_ascii = ref is None and uri.isascii()  # like almost all images
        if not is_ascii and not (_is_storable(uri) and _is_storable(ref or "")):
            return Refusal("text that UTF-8 cannot encode, or with a NUL")
        if ref is not None and len(ref) > MAX_REF_CHARS:
            return Refusal(f"an id of {len(ref)} characters; the limit is {MAX_REF_CHARS}")
        failure = refusal(uri, self.file_roots, self.object_stores)
        failure = failure or refusal_of_port(uri, self.fetch_ports)
        return None if failure is None else _advise(uri, failure)


def check(  # noqa: PLR0913  (four of them are optional)
    images: Iterable[Image],
    file_roots: Sequence[Path],
    fetch_ports: Collection[int] = (),
    object_stores: Collection[str] = (),
    *,
    on_invalid: OnInvalid = OnInvalid.stop,
    findings: Findings | None = None,
) -> Iterator[Entry | Run | Failed]:
    """Yields the accepted images. A run needs no check, unless a default port is closed.

    Raises:
        RefusedError: with `stop`. It names up to ten refused lines, with their places and reasons.
    """
    takes_runs = not fetch_ports or set(fetch_ports).issuperset(DEFAULT_PORTS.values())
    stream = iter(images) if takes_runs else apart(images)
    rules = Rules([root.resolve() for root in file_roots], fetch_ports, object_stores)
    findings = Findings() if findings is None else findings
    for image in stream:
        refused = None if isinstance(image, Run) else rules.refusal_of(image)
        if not isinstance(image, Bad) and refused is None:
            yield image
        elif not isinstance(image, Run) and refused is not None:
            if on_invalid is OnInvalid.stop:
                raise _stopped(image, refused, _further(apart(stream), rules))
            findings.note(_report(image, refused), refused.reason)
            if on_invalid is OnInvalid.record:
                yield _failed(image, refused)


def _further(images: Iterator[Entry | Bad], rules: Rules) -> Iterator[tuple[Entry | Bad, Refusal]]:
    """Further refusals, up to MAX_REFUSALS after the first, from a bounded part of the rest."""
    left = MAX_REFUSALS
    for image, _ in zip(images, range(ENTRIES_AFTER_REFUSAL), strict=False):
        refused = rules.refusal_of(image)
        if refused is not None:
            yield image, refused
            left -= 1
        if left == 0:
            return


def _stopped(
    image: Entry | Bad, refused: Refusal, further: Iterable[tuple[Entry | Bad, Refusal]]
) -> RefusedError:
    found = [(image, refused), *_as_far_as_read(further)]
    more = "More than " if len(found) > MAX_REFUSALS else ""
    alike = all(why.reason == OUTSIDE_ROOTS for _, why in found)
    found = found[:MAX_REFUSALS]
    noun = "line" if any(isinstance(one, Bad) for one, _ in found) else "URI"
    count = f"{more}{len(found)} {noun}s are" if len(found) > 1 else f"A {noun} is"
    reports = [_report(one, why) for one, why in found]
    if alike and len(reports) > SHOWN_ALIKE:  # the advice that follows must not be overlooked
        reports[SHOWN_ALIKE:] = ["  … and others for the same reason"]
    error = RefusedError(
        "\n".join([f"{count} refused, so nothing is submitted:", *reports]),
        line=image.line or None,
        column=image.column,
    )
    error.outside_roots = any(why.reason == OUTSIDE_ROOTS for _, why in found)
    return error


def _as_far_as_read(
    further: Iterable[tuple[Entry | Bad, Refusal]],
) -> Iterator[tuple[Entry | Bad, Refusal]]:
    """Ignores errors in the list after the refused line: they must not hide that line."""
    try:
        yield from further
    except SourceError:
        return


def _report(image: Entry | Bad, refused: Refusal) -> str:
    shown = shorten(image.uri if isinstance(image, Entry) else image.shown)
    if isinstance(image, Entry) and image.root is not None:
        return f"  {shown}: {refused}"  # its place is the same file, or "argument"
    return f"  {image.place}: {shown}: {refused}" if shown else f"  {image.place}: {refused}"


def _failed(image: Entry | Bad, refused: Refusal) -> Failed:
    """The image with its message, made storable as text in both databases."""
    given = image.uri if isinstance(image, Entry) else image.shown
    uri = _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", given)[:MAX_URI_CHARS]
    ref = image.ref and _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", image.ref)[:MAX_REF_CHARS]
    failure = Failure(refused.code, f"{image.place}: {refused}")
    return Failed(uri, ref, failure, image.values)


def _is_storable(text: str) -> bool:
    """Whether a text column of both databases can hold the text."""
    if text.isascii():
        return "\x00" not in text
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in text


def _advise(uri: str, failure: Failure) -> Refusal:
    if uri.startswith("/") and len(uri) <= MAX_URI_CHARS:
        return Refusal("a path", f"write {shorten(Path(uri).as_uri())}")
    if uri.startswith(("./", "../", "~")):
        return Refusal("a path", "write its absolute form as file:///…")
    # The same code as from a worker. A line without a scheme is no URI at all.
    return Refusal(failure.detail, code=failure.code if has_scheme(uri) else "bad_uri")
