"""A job on the server."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from resnextq.errors import Error, TimedOut
from resnextq.shapes import ClassCount, ErrorCount, JobStatus, Result, Retried, Thumbnail

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped,import-not-found,unused-ignore]

    from resnextq.transport import Transport

# The server answers when the job is finished, or after this time.
LONG_POLL_S: Final = 20.0
# The same while progress is shown.
SHOW_EVERY_S: Final = 1.0
# Added to the caller's time limit, so that the server's last answer can arrive.
ANSWER_S: Final = 5.0
SAVE_TIMEOUT_S: Final = 3_600.0
PAGE: Final = 5_000
THUMBNAILS_PAGE: Final = 1_000
MINUTE_S: Final = 60
JSON: Final = {"Content-Type": "application/json"}
HOUR_S: Final = 3_600
PARQUET: Final = "application/vnd.apache.parquet"
FORMATS: Final = {"parquet": PARQUET, "csv": "text/csv", "jsonl": "application/x-ndjson"}


class Job:
    """A job on the server, from `Client.job` or `Client.submit`. Each method asks the server."""

    def __init__(self, transport: Transport, job_id: str) -> None:
        self._transport = transport
        self.id = job_id

    def __repr__(self) -> str:
        return f"Job({self.id!r})"

    @property
    def _path(self) -> str:
        return f"/v1/jobs/{self.id}"

    def status(self) -> JobStatus:
        """The job's progress, with exact counts."""
        return JobStatus.read(self._transport.json("GET", self._path))

    def wait(self, timeout: float | None = None, progress: bool = True) -> JobStatus:  # noqa: FBT001, FBT002  (as documented)
        """Waits until the job is finished.

        Args:
            timeout: limit in seconds, plus five for the last answer; None: no limit.
            progress: show a line with progress, rate and time left, if standard error is a
                terminal.

        Raises:
            TimedOut: the job is not finished in time; it continues.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        shown = _Line() if progress and sys.stderr.isatty() else None
        try:
            while True:
                left_s = LONG_POLL_S if deadline is None else deadline - time.monotonic()
                wait_s = min(max(0.0, left_s), SHOW_EVERY_S if shown else LONG_POLL_S)
                status = self._status_within(wait_s, None if deadline is None else left_s)
                if shown:
                    shown.show(status)
                if status.is_finished:
                    return status
                if deadline is not None and time.monotonic() >= deadline:
                    raise TimedOut(
                        f"Job {self.id} is not finished after {timeout:g} s: "
                        f"{status.pending:,} of {status.total:,} images are left. It continues."
                    )
        finally:
            if shown:
                shown.end()

    def _status_within(self, wait_s: float, left_s: float | None) -> JobStatus:
        """The job's status once it is finished, or after `wait_s`."""
        limit_s = self._transport.timeout_s
        if left_s is not None:
            limit_s = min(limit_s, max(0.0, left_s) + ANSWER_S)
        query = {"wait_s": round(wait_s, 3)}
        told = self._transport.json("GET", self._path, query=query, timeout_s=limit_s)
        return JobStatus.read(told)

    def results(
        self,
        *,
        only: str | None = None,
        label: str | None = None,
        min_score: float | None = None,
        error: str | None = None,
    ) -> Iterator[Result]:
        """Reads the results of finished images, in the order of the submit. Reads page by page as
        you iterate, so a broken connection loses nothing.

        Args:
            only: `classified` or `failed`.
            label: only images whose most likely class has this label.
            min_score: only images whose most likely class has at least this score.
            error: only images that failed with this code.
        """
        query: dict[str, Any] = {
            "only": only, "label": label, "min_score": min_score, "error": error, "limit": PAGE,
        }  # fmt: skip
        return map(Result.read, self._pages("results", query))

    def thumbnails(
        self,
        *,
        only: str | None = None,
        label: str | None = None,
        min_score: float | None = None,
    ) -> Iterator[Thumbnail]:
        """Lists images that have a thumbnail, in the order of the submit. Reads page by page. The
        arguments are the same as for `results`.
        """
        query: dict[str, Any] = {
            "only": only, "label": label, "min_score": min_score, "limit": THUMBNAILS_PAGE,
        }  # fmt: skip
        return map(Thumbnail.read, self._pages("thumbnails", query))

    def thumbnail(self, position: int) -> bytes:
        """The thumbnail of one image, a JPEG.

        Raises:
            NotFound: the image has no thumbnail.
        """
        path, limit_s = f"{self._path}/thumbnails/{position}", self._transport.timeout_s
        with self._transport.stream(path, accept="image/jpeg", timeout_s=limit_s) as blocks:
            return b"".join(blocks)

    def _pages(self, name: str, query: dict[str, Any]) -> Iterator[dict[str, Any]]:
        while True:
            page = self._transport.json("GET", f"{self._path}/{name}", query=query)
            yield from page[name]
            if page["next"] is None:
                return
            query["cursor"] = page["next"]

    def save(
        self,
        path: str | os.PathLike[str],
        format: str | None = None,  # noqa: A002  (as documented)
        *,
        timeout_s: float = SAVE_TIMEOUT_S,
        **filters: Any,  # noqa: ANN401
    ) -> Path:
        """Writes the results of finished images to a file, which appears only when complete.

        Args:
            path: path of the file.
            format: `parquet`, `csv` or `jsonl`; by default the file name's ending.
            timeout_s: limit for the whole call.
            filters: the arguments of `results`.

        Returns:
            The path of the file.

        Raises:
            ServerUnavailable: the connection ended before the answer was complete.
            TimedOut: the answer was not complete in time.
        """
        path = Path(path)
        wanted = format or path.suffix.lstrip(".")
        if wanted not in FORMATS:
            raise Error(f"The format must be one of {', '.join(FORMATS)}, got {wanted!r}.")
        part = path.with_name(f"{path.name}.part")
        try:
            source = self._transport.stream(
                f"{self._path}/results",
                query=filters,
                accept=FORMATS[wanted],
                timeout_s=timeout_s,
            )
            with source as blocks, part.open("wb") as file:
                for block in blocks:
                    file.write(block)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return path

    def to_parquet(self, path: str | os.PathLike[str], **filters: Any) -> Path:  # noqa: ANN401
        """Saves as Parquet, with one schema for classified and failed images; see `save`."""
        return self.save(path, "parquet", **filters)

    def to_pandas(self, **filters: Any) -> pd.DataFrame:  # noqa: ANN401
        """One row per image, with the columns of the Parquet file. Needs pandas and pyarrow."""
        import tempfile  # noqa: PLC0415  (few callers need these)

        import pandas  # noqa: ICN001, PLC0415

        with tempfile.TemporaryDirectory() as folder:
            return pandas.read_parquet(self.to_parquet(Path(folder) / "results.parquet", **filters))

    def classes(self, limit: int = 100) -> list[ClassCount]:
        """Counts images by most likely class, most frequent first."""
        told = self._transport.json("GET", f"{self._path}/classes", query={"limit": limit})
        return [ClassCount.of(one) for one in told["classes"]]

    def errors(self, limit: int = 1_000) -> list[ErrorCount]:
        """Counts failed images by code and host, most frequent first."""
        told = self._transport.json("GET", f"{self._path}/errors", query={"limit": limit})
        return [ErrorCount.of(one) for one in told["errors"]]

    def cancel(self) -> JobStatus:
        """Cancels the job. Finished results are kept."""
        return self._change("cancel")

    def pause(self) -> JobStatus:
        """Pauses the job: workers get no more of its images until `resume`."""
        return self._change("pause")

    def resume(self) -> JobStatus:
        return self._change("resume")

    def edit(
        self,
        *,
        name: str | None = None,
        priority: int | None = None,
        tags: Mapping[str, str | None] | None = None,
    ) -> JobStatus:
        """Changes the given values. An empty name removes the name, and None removes a tag."""
        given = {"name": name, "priority": priority, "tags": None if tags is None else dict(tags)}
        body = json.dumps({key: value for key, value in given.items() if value is not None})
        told = self._transport.json(
            "PATCH", self._path, body=body.encode(), headers=JSON, again=True
        )
        return JobStatus.read(told)

    def retry(self, errors: Sequence[str] = ()) -> Retried:
        """Runs failed images again: all, or only those with one of these codes."""
        body = json.dumps({"errors": list(errors)}).encode()
        told = self._transport.json("POST", f"{self._path}/retry", body=body, headers=JSON)
        return Retried.of(told)

    def delete(self) -> None:
        """Deletes a job that has ended, with its results. Its id is unknown afterwards.

        Raises:
            Conflict: the job still runs: cancel it first.
            NotFound: the job is already deleted.
        """
        self._transport.json("DELETE", self._path)

    def _change(self, what: str) -> JobStatus:
        # Each of these requests may be repeated.
        told = self._transport.json("POST", f"{self._path}/{what}", again=True)
        return JobStatus.read(told)


class _Line:
    """One line on standard error that is overwritten."""

    def show(self, status: JobStatus) -> None:
        done = status.total - status.pending
        share = done / status.total if status.total else 0.0
        left = "" if status.eta_s is None else f", {_span(status.eta_s)} left"
        text = (
            f"{done:,} of {status.total:,} images, {share:.0%}, {status.failed:,} failed, "
            f"{status.images_per_s:,.0f} images/s{left}"
        )
        columns = 80
        with suppress(OSError):
            columns = os.get_terminal_size(sys.stderr.fileno()).columns
        sys.stderr.write(f"\r{text[: columns - 1]:<{columns - 1}}")
        sys.stderr.flush()

    def end(self) -> None:
        sys.stderr.write("\n")


def _span(seconds: float) -> str:
    whole = round(seconds)
    if whole < MINUTE_S:
        return f"{whole} s"
    if whole < HOUR_S:
        return f"{whole // MINUTE_S} min"
    return f"{whole // HOUR_S} h {whole % HOUR_S // MINUTE_S} min"
