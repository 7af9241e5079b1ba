"""`resnextq submit --dry-run`, for people: counts, refused lines, hosts, forecast.

`producer.submit.dry_run` has the same as JSON for programs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from producer.cli.render.words import words
from producer.jobs.span import span
from producer.submit.check import OnInvalid
from producer.submit.dry_run import SHOWN_HOSTS, Forecast, Report
from producer.submit.sources.left_out import LeftOut

_REFUSED: Final = {
    OnInvalid.stop: "refused; nothing would be submitted",
    OnInvalid.skip: "refused and left out",
    OnInvalid.record: "refused and recorded as failed",
}


def render(report: Report, forecast: Forecast | None, left_out: LeftOut) -> RenderableType:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for what, value in _facts(report, forecast):
        facts.add_row(what, value)
    parts: list[RenderableType] = [facts]
    if report.refused:
        parts.append(_refused(report))
    if report.hosts.images:
        parts.append(_hosts(report))
    parts += [words(line) for line in left_out.lines()]
    return Group(*parts)


def _facts(report: Report, forecast: Forecast | None) -> Iterator[tuple[str, Text]]:
    chunks = "1 chunk" if report.chunks == 1 else f"{report.chunks:,} chunks"
    failed = f", {report.failed:,} of them failed" if report.failed else ""
    yield "images", words(f"{report.images:,} in {chunks}{failed}")
    if report.sample is not None:
        yield "sample", words(f"of at most {report.sample:,}")
    refused = report.refused.total()
    if refused:
        style = "red" if report.on_invalid is OnInvalid.stop else "yellow"
        yield "lines", words(f"{refused:,} {_REFUSED[report.on_invalid]}", style)
    if report.duplicates:
        done = "left out" if report.unique else "kept; --unique leaves them out"
        what = "1 URI is" if report.duplicates == 1 else f"{report.duplicates:,} URIs are"
        yield "duplicates", words(f"{what} repeated: {done}")
    yield "queue", words(report.queue)
    yield "forecast", words(_forecast(forecast))


def _forecast(forecast: Forecast | None) -> str:
    if forecast is None:
        return "unknown: the database could not be asked"
    if not forecast.workers:
        return "unknown: no worker serves this queue"
    if forecast.alone_s is None or forecast.behind_s is None:
        return "unknown: its workers have classified nothing yet"
    served = "1 worker" if forecast.workers == 1 else f"{forecast.workers} workers"
    rate = f"{served}, {forecast.images_per_s:,.1f} images/s"
    if not forecast.waiting:
        return f"{span(forecast.alone_s)} with {rate}"
    return (
        f"{span(forecast.alone_s)} to {span(forecast.behind_s)} with {rate}, and "
        f"{forecast.waiting:,} images of other jobs"
    )


def _refused(report: Report) -> Group:
    table = _table("Why lines are refused", "lines", "reason")
    for reason, lines in report.refused.most_common():
        table.add_row(f"{lines:,}", words(reason))
    first = [words(line.strip()) for line in report.reports]
    return Group(table, Text("The first of them", "dim"), *first)


def _hosts(report: Report) -> Table:
    counted = report.hosts.images
    most = "" if report.hosts.is_exact else ", at least"
    table = _table(f"Hosts ({len(counted):,}{most})", "images", "share", "host")
    for host, images in counted.most_common(SHOWN_HOSTS):
        table.add_row(f"{images:,}", f"{images / counted.total():.1%}", words(host))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, header_style="dim", pad_edge=False)
    for column in columns[:-1]:
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column(columns[-1], overflow="fold")
    return table
