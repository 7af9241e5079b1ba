"""What the images of a job are, in 64 characters: two submits with one key are compared by it.

It depends on the URIs, the submitter's ids and their order alone, not on how they are cut into
chunks. `submit` feeds it while it inserts, `producer.submit.key` while it compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256


class ImagesDigest:
    """A digest of a stream of images, and their number so far."""

    def __init__(self) -> None:
        self.images = 0
        self._uris = sha256()
        self._refs = sha256()

    def add(self, uris: Sequence[str], refs: Sequence[str | None]) -> None:
        """The next images. No URI has a line's end in it: `contract.uris.refusal` sees to that."""
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
    """An id may hold half a surrogate pair, which UTF-8 itself has no bytes for."""
    return text.encode("utf-8", "surrogatepass")
