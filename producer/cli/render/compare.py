"""`resnextq compare`: how far two jobs agree, for people."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from producer.cli.render.words import words
from producer.jobs.compare import Comparison
from producer.jobs.job import Job

PAIRED_BY = {
    "position": "position: both have the same images",
    "ref": "your own ids",
    "uri": "URI",
}


def render_comparison(found: Comparison, most: int) -> RenderableType:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for what, value in _facts(found):
        facts.add_row(what, value)
    panel = Panel(facts, title="two jobs", title_align="left", expand=False)
    return Group(panel, *_tables(found, most))


def _facts(found: Comparison) -> list[tuple[str, RenderableType]]:
    both = found.agree + found.changed
    share = "-" if found.agreement is None else f"{100 * found.agreement:.2f}%"
    facts: list[tuple[str, RenderableType]] = [
        ("first", _job(found.first)),
        ("second", _job(found.second)),
        ("paired by", PAIRED_BY[found.paired_by]),
        ("images", f"{found.images:,} finished in both"),
        ("agree", f"{found.agree:,} of {both:,} that both classified, {share}"),
        ("changed", Text(f"{found.changed:,}", "yellow" if found.changed else "")),
    ]
    for what, images in (
        ("failed in first", found.failed_first),
        ("failed in second", found.failed_second),
        ("failed in both", found.failed_both),
        ("only in first", found.only_first),
        ("only in second", found.only_second),
    ):
        if images:
            facts.append((what, Text(f"{images:,}", "red" if what.startswith("failed") else "")))
    return facts


def _job(job: Job) -> Text:
    name = f" · {job.name}" if job.name else ""
    return words(f"{job.id}{name}, {job.model}, weights {job.weights}, precision {job.precision}")


def _tables(found: Comparison, most: int) -> list[Table]:
    tables = []
    if found.classes:
        by_class = _table("By class of the first job", "class", "images", "agree", "share")
        for one in found.classes[:most]:
            share = f"{100 * one.agreement:.1f}%"
            by_class.add_row(words(one.label), f"{one.images:,}", f"{one.agree:,}", share)
        tables.append(by_class)
    if found.changes:
        changes = _table("Most frequent changes", "from", "to", "images")
        changes.columns[1].justify = "left"
        for change in found.changes[:most]:
            changes.add_row(words(change.before), words(change.after), f"{change.images:,}")
        tables.append(changes)
    return tables


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, header_style="dim")
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", overflow="fold", no_wrap=name != "to")
    return table
