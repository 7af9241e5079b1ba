"""Groups of some thousand images in columns, on which `--unique`, `--sample` and inserts work.

`gather` makes groups from the images that `producer.submit.check` accepts, each as large as one
transaction. `parts_of` cuts a group into chunks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Final

import orjson

from contract.chunks.insert import Part
from contract.failure import Failure
from contract.flow import chunk_images_at
from producer.submit.check import Failed
from producer.submit.sources.entry import Entry, Run, Values

# Images that one transaction inserts: some tens of milliseconds, a few hundred kilobytes.
GROUP_IMAGES: Final = 4_096


@dataclass(frozen=True)
class Group:
    """Consecutive images."""

    uris: list[str] = field(default_factory=list)
    refs: list[str | None] = field(default_factory=list)
    failed: dict[int, Failure] = field(default_factory=dict)
    """Images that have already failed, by offset."""
    values: list[Values | None] = field(default_factory=list)
    """Other values of the images' rows. It may be shorter: images beyond its end have none."""

    def cut(self, first: int, images: int) -> Group:
        failed = {
            offset - first: failure
            for offset, failure in self.failed.items()
            if first <= offset < first + images
        }
        here = slice(first, first + images)
        return Group(self.uris[here], self.refs[here], failed, self.values[here])

    def only(self, offsets: Sequence[int]) -> Group:
        return Group(
            [self.uris[offset] for offset in offsets],
            [self.refs[offset] for offset in offsets],
            {at: self.failed[old] for at, old in enumerate(offsets) if old in self.failed},
            [self.values_at(offset) for offset in offsets] if self.values else [],
        )

    def values_at(self, offset: int) -> Values | None:
        return self.values[offset] if offset < len(self.values) else None

    def add(self, more: Entry | Run | Failed | Group) -> None:
        """Appends images."""
        first = len(self.uris)
        if isinstance(more, (Entry, Failed)):
            if isinstance(more, Failed):
                self.failed[first] = more.failure
            self.uris.append(more.uri)
            self.refs.append(more.ref)
            if more.values is not None:
                self._add_values(first, [more.values])
            return
        if isinstance(more, Group):
            self.failed.update({first + offset: failure for offset, failure in more.failed.items()})
        self.uris.extend(more.uris)
        self.refs.extend(more.refs or repeat(None, len(more.uris)))
        if more.values:
            self._add_values(first, more.values)

    def _add_values(self, first: int, values: Sequence[Values | None]) -> None:
        self.values.extend(repeat(None, first - len(self.values)))
        self.values.extend(values)


def gather(
    images: Iterable[Entry | Run | Failed | Group], size: int = GROUP_IMAGES
) -> Iterator[Group]:
    """Groups of this size. The last one may be smaller."""
    group = Group()
    for image in images:
        group.add(image)
        while len(group.uris) >= size:
            yield group.cut(0, size)
            group = group.cut(size, len(group.uris))
    if group.uris:
        yield group


def parts_of(
    group: Group, first_position: int, first_chunk: int, chunk_images: int | None
) -> list[Part]:
    """The group's chunks, of `chunk_images` each. None: chunk lengths grow along the job."""
    parts, cut = list[Part](), 0
    while cut < len(group.uris):
        images = chunk_images or chunk_images_at(first_position + cut)
        parts.append(_part(first_chunk + len(parts), group.cut(cut, images), first_position + cut))
        cut += images
    return parts


def _part(chunk: int, group: Group, first_position: int) -> Part:
    has_refs = group.refs.count(None) < len(group.refs)
    return Part(
        chunk=chunk,
        first_position=first_position,
        images=len(group.uris),
        uris=orjson.dumps(group.uris).decode(),
        refs=orjson.dumps(group.refs).decode() if has_refs else None,
        failed=group.failed,
    )
