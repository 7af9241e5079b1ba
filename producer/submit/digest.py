"""A digest of a job's images, 64 characters long. It tells whether two submits with one key agree.

It depends only on the URIs, the submitter's ids and their order, not on the chunks. `submit`
computes it while it inserts, `producer.submit.key` while it compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256


class ImagesDigest:
    """The digest of a stream of images, and their number so far."""

    def __init__(self) -> None:
        self.images = 0
        self._uris = sha256()
        self._refs = sha256()

    def add(self, uris: Sequence[str], refs: Sequence[str | None]) -> None:
        """Adds images. No URI contains a line end: `contract.uris.refusal` rejects those."""
        self._uris.update(_bytes_of("\n".join(uris)))
        self._uris.update(b"\n")
        if refs.count(None) < len(refs):
            self._refs.update(
                b"".join(
                    _bytes_of(f"{position} {len(ref)} {ref}\n")
                    for position, ref in enumerate(refs, start=self.images)
                    if ref is not None
                )
            )
        self.images += len(uris)

    def hexdigest(self) -> str:
        return sha256(self._uris.digest() + self._refs.digest()).hexdigest()


def _bytes_of(text: str) -> bytes:
    """The text in UTF-8, with unpaired surrogates (an id may hold one) encoded as well."""
    return text.encode("utf-8", "surrogatepass")
