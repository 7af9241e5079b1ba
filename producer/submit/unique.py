"""`--unique`: keeps only the first image with each URI.

URIs seen before are kept as 16-byte digests in a temporary SQLite database. Its file has no name,
lies below SQLITE_TMPDIR, TMPDIR or /var/tmp, disappears with the process, and takes some 25 to 35
bytes per image. Its memory stays at 24 MB. Fewer than one in 10^24 lists of ten million URIs have
two that share a digest.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from hashlib import blake2b
from types import TracebackType
from typing import Final, Self

from producer.submit.check import Findings
from producer.submit.groups import Group

DIGEST_BYTES: Final = 16
CACHE_KIBIBYTES: Final = 24_576


def without_duplicates(groups: Iterable[Group], findings: Findings) -> Iterator[Group]:
    """The images whose URI has not come before. Failed images stay, so that positions hold."""
    with Seen() as seen:
        for group in groups:
            kept = seen.keep(group)
            findings.duplicates += len(group.uris) - len(kept.uris)
            if kept.uris:
                yield kept


class Seen:
    """The URIs seen so far. Use it in a `with` block."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        for pragma in (
            "journal_mode = OFF",
            "synchronous = OFF",
            "locking_mode = EXCLUSIVE",
            f"cache_size = -{CACHE_KIBIBYTES}",
        ):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.execute(
            "CREATE TABLE seen (digest BLOB PRIMARY KEY, batch INTEGER) WITHOUT ROWID"
        )
        self._batch = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._database.close()

    def keep(self, group: Group) -> Group:
        """The group's new images and its failed images.

        The URI of a failed image does not count as seen: a valid line with the same URI is kept.
        """
        if not group.failed:
            kept = self.add(group.uris)
        else:
            valid = [at for at in range(len(group.uris)) if at not in group.failed]
            fresh = self.add([group.uris[at] for at in valid])
            kept = sorted([*(valid[at] for at in fresh), *group.failed])
        return group if len(kept) == len(group.uris) else group.only(kept)

    def add(self, uris: Sequence[str]) -> list[int]:
        """Adds URIs. Returns the indexes of those that are new, in order."""
        self._batch += 1
        firsts: dict[bytes, int] = {}
        for at, uri in enumerate(uris):
            firsts.setdefault(_digest(uri), at)
        before = self._database.total_changes
        self._database.execute("BEGIN")
        self._database.executemany(
            "INSERT OR IGNORE INTO seen VALUES (?, ?)",
            # Sorted like the tree, so that each of its pages is touched once.
            [(digest, self._batch) for digest in sorted(firsts)],
        )
        self._database.execute("COMMIT")
        if self._database.total_changes - before == len(firsts):
            return list(firsts.values())
        return [at for digest, at in firsts.items() if self._is_of_this_batch(digest)]

    def _is_of_this_batch(self, digest: bytes) -> bool:
        with closing(self._database.cursor()) as cursor:
            row = cursor.execute("SELECT batch FROM seen WHERE digest = ?", (digest,)).fetchone()
        return bool(row[0] == self._batch)


def _digest(uri: str) -> bytes:
    return blake2b(uri.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()
