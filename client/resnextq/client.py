"""The client: connects to a server with a key."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from resnextq.errors import Error
from resnextq.images import opened
from resnextq.job import Job
from resnextq.shapes import JobStatus
from resnextq.transport import Transport

URL_VARIABLE: Final = "RESNEXTQ_URL"
KEY_VARIABLE: Final = "RESNEXTQ_API_KEY"
TIMEOUT_S: Final = 60.0
# A list of ten million URIs is checked and stored before the server answers.
SUBMIT_TIMEOUT_S: Final = 3_600.0
PAGE: Final = 100


class Client:
    """A connection to a resnext-queue server. Safe for many threads."""

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        ca_file: str | None = None,
    ) -> None:
        """
        Args:
            url: address of the server, `https://host[:port]`; by default RESNEXTQ_URL, or the
                server that `resnextq up` runs on this machine.
            key: API key; by default RESNEXTQ_API_KEY, or the key that `up` keeps.
            timeout_s: limit for each call, including retries and waits.
            ca_file: PEM file with the authorities to trust; by default the system's.
        """
        url = url or os.environ.get(URL_VARIABLE) or _kept("api-url")
        key = key or os.environ.get(KEY_VARIABLE) or _kept("api-key")
        if not url:
            raise Error(f"No server: pass `url`, or set {URL_VARIABLE}.")
        if not key:
            raise Error(
                f"No key: pass `key`, or set {KEY_VARIABLE}. "
                "`resnextq keys create NAME` on the server creates one."
            )
        self._transport = Transport(url, key, timeout_s=timeout_s, ca_file=ca_file)

    def __repr__(self) -> str:
        return f"Client({self._transport.url!r})"

    def submit(  # noqa: PLR0913  (all but the first are keyword-only)
        self,
        images: Iterable[str] | Iterable[tuple[str, str | None]] | str | os.PathLike[str] | Any,  # noqa: ANN401
        *,
        column: str | None = None,
        id_column: str | None = None,
        name: str | None = None,
        key: str | None = None,
        priority: int = 0,
        expires_s: float | None = None,
        model: str | None = None,
        weights: str | None = None,
        precision: str | None = None,
        tags: Mapping[str, str] | None = None,
        timeout_s: float = SUBMIT_TIMEOUT_S,
        **more: Any,  # noqa: ANN401  (parameters of a newer server)
    ) -> Job:
        """Submits images. If one is refused, nothing is submitted.

        Args:
            images: URIs, or pairs of URI and your own id; or the path of a list (text, CSV, TSV,
                JSON, JSONL or Parquet, also compressed with gzip or zstd); or a table from pandas,
                polars or pyarrow.
            column: column with the URIs, in a file or table.
            id_column: column with your own ids.
            name: name of the job, for people.
            key: idempotency key: submitting again with the same key returns the existing job. Only
                with a key is a submit sent again if its answer was lost.
            priority: -1000 to 1000. Each step doubles the job's share of the workers.
            expires_s: time limit. Images not done after so many seconds get the error `expired`.
            model: model, instead of the server's.
            weights: weights, instead of the server's or the model's.
            precision: `amp` or `fp32`, instead of the server's.
            tags: tags to find the job with `Client.jobs`.
            timeout_s: limit for the whole call.
            more: other query parameters of the API.

        Raises:
            Refused: a URI or a value is refused; nothing is submitted.
            Conflict: another submit with this key is still in progress.
        """
        query: dict[str, Any] = {
            "name": name,
            "priority": priority or None,
            "expires_s": expires_s,
            "model": model,
            "weights": weights,
            "precision": precision,
            "tag": [f"{name}={value}" for name, value in (tags or {}).items()] or None,
            **more,
        }
        with opened(images, column, id_column) as (body, media_type):
            if isinstance(images, (str, os.PathLike)):
                query |= {"column": column, "id_column": id_column}
            headers = {"Content-Type": media_type}
            if key is not None:
                headers["Idempotency-Key"] = key
            told = self._transport.json(
                "POST",
                "/v1/jobs",
                query=query,
                body=body,
                headers=headers,
                again=key is not None,
                timeout_s=timeout_s,
            )
        return Job(self._transport, told["id"])

    def job(self, job_id: str) -> Job:
        """The job with this id. Sends no request yet: see `Job.status`."""
        if not (job_id.isascii() and job_id.isalnum()):
            raise Error(f"{job_id!r} is not a job's id: an id has only letters and digits.")
        return Job(self._transport, job_id)

    def jobs(
        self,
        *,
        state: str | None = None,
        name: str | None = None,
        tags: Sequence[str] = (),
        since: datetime | None = None,
    ) -> Iterator[JobStatus]:
        """Lists jobs, newest first. Reads page by page as you iterate.

        Args:
            state: only jobs in this state.
            name: only jobs with this text in their name.
            tags: only jobs with all of these tags, each `key` or `key=value`.
            since: only jobs created at this time or later; needs a time zone.
        """
        query: dict[str, Any] = {
            "state": state,
            "name": name,
            "tag": list(tags) or None,
            "since": None if since is None else since.isoformat(),
            "limit": PAGE,
        }
        while True:
            page = self._transport.json("GET", "/v1/jobs", query=query)
            yield from map(JobStatus.read, page["jobs"])
            if page["next"] is None:
                return
            query["cursor"] = page["next"]


def _kept(name: str) -> str:
    """The content of a file in the home of `resnextq up` on this machine; empty if missing."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share"
    home = Path(os.environ.get("RESNEXT_HOME") or Path(data) / "resnext-queue")
    try:
        return (home / name).read_text().strip()
    except OSError:
        return ""
