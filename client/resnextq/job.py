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
from resnextq.shapes import ClassCount, ErrorCount, JobStatus, Result, Retried

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped,import-not-found,unused-ignore]

    from resnextq.transport import Transport

# The server answers when the job is finished, or after this.
LONG_POLL_S: Final = 20.0
# While a bar is shown.
SHOW_EVERY_S: Final = 1.0
PAGE: Final = 5_000
MINUTE_S: Final = 60
JSON: Final = {"Content-Type": "application/json"}
HOUR_S: Final = 3_600
PARQUET: Final = "application/vnd.apache.parquet"
FORMATS: Final = {"parquet": PARQUET, "csv": "text/csv", "jsonl": "application/x-ndjson"}


class Job:
    """A job, by its id. Each method asks the server anew; see `Client.job` and `Client.submit`."""

    def __init__(self, transport: Transport, job_id: str) -> None:
        self._transport = transport
        self.id = job_id

    def __repr__(self) -> str:
        return f"Job({self.id!r})"

    @property
    def _path(self) -> str:
        return f"/v1/jobs/{self.id}"

    def status(self) -> JobStatus:
        """How far it is, with exact counts."""
        return JobStatus.read(self._transport.json("GET", self._path))

    def wait(self, timeout: float | None = None, progress: bool = True) -> JobStatus:  # noqa: FBT001, FBT002  (as documented)
        """Returns once no image is left to wait for.

        Args:
            timeout: seconds; None: as long as it takes.
            progress: shows a line with progress, rate and time left, if standard error is a
                terminal.

        Raises:
            TimedOut: it is not finished in time; the job goes on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        shown = _Line() if progress and sys.stderr.isatty() else None
        try:
            while True:
                left_s = LONG_POLL_S if deadline is None else deadline - time.monotonic()
                wait_s = min(max(0.0, left_s), SHOW_EVERY_S if shown else LONG_POLL_S)
                told = self._transport.json("GET", self._path, query={"wait_s": round(wait_s, 3)})
                status = JobStatus.read(told)
                if shown:
                    shown.show(status)
                if status.is_finished:
                    return status
                if deadline is not None and time.monotonic() >= deadline:
                    raise TimedOut(
                        f"Job {self.id} is not finished after {timeout:g} s: "
                        f"{status.pending:,} of {status.total:,} images are left. It goes on."
                    )
        finally:
            if shown:
                shown.end()

    def results(
        self,
        *,
        only: str | None = None,
        label: str | None = None,
        min_score: float | None = None,
        error: str | None = None,
    ) -> Iterator[Result]:
        """What is settled, in the order of the submit; read page by page as it is asked for, so a
        connection that breaks costs nothing.

        Args:
            only: `classified` or `failed`.
            label: whose likeliest class has this label.
            min_score: whose likeliest class has at least this score.
            error: that failed with this code.
        """
        query: dict[str, Any] = {
            "only": only, "label": label, "min_score": min_score, "error": error, "limit": PAGE,
        }  # fmt: skip
        while True:
            page = self._transport.json("GET", f"{self._path}/results", query=query)
            yield from map(Result.read, page["results"])
            if page["next"] is None:
                return
            query["cursor"] = page["next"]

    def save(self, path: str | os.PathLike[str], format: str | None = None, **filters: Any) -> Path:  # noqa: A002, ANN401
        """Writes what is settled to a file, which appears once it is whole; returns its path.

        Args:
            path: of the file.
            format: `parquet`, `csv` or `jsonl`; by default the name's ending.
            filters: as of `results`.
        """
        path = Path(path)
        wanted = format or path.suffix.lstrip(".")
        if wanted not in FORMATS:
            raise Error(f"The format is {wanted!r}; it is one of: {', '.join(FORMATS)}.")
        part = path.with_name(f"{path.name}.part")
        try:
            accept = FORMATS[wanted]
            source = self._transport.stream(f"{self._path}/results", query=filters, accept=accept)
            with source as blocks, part.open("wb") as file:
                for block in blocks:
                    file.write(block)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return path

    def to_parquet(self, path: str | os.PathLike[str], **filters: Any) -> Path:  # noqa: ANN401
        """`save` as Parquet: one schema for images that are classified and that have failed."""
        return self.save(path, "parquet", **filters)

    def to_pandas(self, **filters: Any) -> pd.DataFrame:  # noqa: ANN401
        """A row an image, with the columns of the Parquet file. Needs pandas and pyarrow."""
        import tempfile  # noqa: PLC0415  (few need these)

        import pandas  # noqa: ICN001, PLC0415

        with tempfile.TemporaryDirectory() as folder:
            return pandas.read_parquet(self.to_parquet(Path(folder) / "results.parquet", **filters))

    def classes(self, limit: int = 100) -> list[ClassCount]:
        """How many images have which class as their likeliest, the most frequent first."""
        told = self._transport.json("GET", f"{self._path}/classes", query={"limit": limit})
        return [ClassCount.of(one) for one in told["classes"]]

    def errors(self, limit: int = 1_000) -> list[ErrorCount]:
        """How many images have failed, by code and host, the most frequent first."""
        told = self._transport.json("GET", f"{self._path}/errors", query={"limit": limit})
        return [ErrorCount.of(one) for one in told["errors"]]

    def cancel(self) -> JobStatus:
        """Stops it. What is done is kept."""
        return self._change("cancel")

    def pause(self) -> JobStatus:
        """Gives none of its images out until `resume`."""
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
        """Changes what is given. An empty name is none; a tag with the value None goes."""
        given = {"name": name, "priority": priority, "tags": None if tags is None else dict(tags)}
        body = json.dumps({key: value for key, value in given.items() if value is not None})
        told = self._transport.json(
            "PATCH", self._path, body=body.encode(), headers=JSON, again=True
        )
        return JobStatus.read(told)

    def retry(self, errors: Sequence[str] = ()) -> Retried:
        """Runs failed images again: those with one of these codes, or all."""
        body = json.dumps({"errors": list(errors)}).encode()
        told = self._transport.json("POST", f"{self._path}/retry", body=body, headers=JSON)
        return Retried.of(told)

    def _change(self, what: str) -> JobStatus:
        # Each of these is as good twice as once.
        told = self._transport.json("POST", f"{self._path}/{what}", again=True)
        return JobStatus.read(told)


class _Line:
    """One line on standard error that is written over."""

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
