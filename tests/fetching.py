"""A fetcher for the tests. Its loop runs in the test's own thread while the test waits."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from contract.failure import Failure
from contract.settings import Settings
from worker.loader.fetch.fetcher import Fetched, Fetcher
from worker.loader.fetch.loop import Loop
from worker.loader.fetch.settings import FetchSettings


class Fetching:
    def __init__(self, *, slots: int = 16, **settings: Any) -> None:
        self.loop = Loop()
        self.fetcher = Fetcher(FetchSettings.of(Settings(**settings)), self.loop, slots=slots)

    def begin(self, uri: str, root: Path | None = None) -> list[Fetched | Failure]:
        """Starts a fetch, and returns the list that will hold its outcome."""
        outcomes: list[Fetched | Failure] = []
        self.fetcher.begin(uri, root, outcomes.append)
        return outcomes

    def wait(self, *begun: list[Fetched | Failure]) -> list[Fetched | Failure]:
        """Waits for the fetches, and returns their outcomes, exactly one each."""
        while not all(begun):
            self.loop.turn()
        assert [len(outcomes) for outcomes in begun] == [1] * len(begun)
        return [outcome for (outcome,) in begun]

    def fetch(self, uri: str, root: Path | None = None) -> Fetched | Failure:
        (outcome,) = self.wait(self.begin(uri, root))
        return outcome

    def body(self, uri: str) -> bytes:
        """Fetches a URI that must not fail, and returns its body."""
        fetched = self.fetch(uri)
        assert isinstance(fetched, Fetched), fetched
        return fetched.body

    def failure(self, uri: str) -> Failure:
        """Fetches a URI that must fail, and returns the failure."""
        failure = self.fetch(uri)
        assert isinstance(failure, Failure), failure
        return failure

    def fetch_all(self, uris: Iterable[str]) -> dict[str, Fetched | Failure]:
        """Fetches all URIs, as many at once as there are slots."""
        outcomes = {uri: self.begin(uri) for uri in uris}
        return dict(zip(outcomes, self.wait(*outcomes.values()), strict=True))
