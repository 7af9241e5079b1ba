"""What `resnextq classify` shows: one line per image, and a count. `results` shows the same lines.

The lines go to standard output: fitted to a terminal's width, or otherwise one line each, or JSON.
The count goes to standard error if that is a terminal. If both are terminals, the count stays below
the lines, so the same code must draw both.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

from rich.console import ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from contract.log import in_one_line
from contract.record import Record
from contract.terminal import make_console
from contract.uris import is_file
from producer.cli.render.progress import count_of
from producer.cli.render.words import words

# Share of a line for the end of a picture's name, which tells it from its neighbours. The rest is
# for its classes.
PICTURE_SHARE: Final = 0.3


@contextmanager
def showing(*, as_json: bool) -> Iterator[Callable[[Record], bool]]:
    """Yields a function that shows a record and returns whether the image failed."""
    on_terminal = sys.stdout.isatty()
    console = make_console(stderr=not on_terminal, highlight=False)
    count = count_of("classified", console, disable=not sys.stderr.isatty())
    task = count.add_task("", total=None, start=False)

    def show(record: Record) -> bool:
        count.start()  # not earlier, since the progress of the weights may be shown until then
        count.start_task(task)
        if on_terminal:
            console.print(
                json.dumps(record) if as_json else _row(record, console.options),
                markup=False,
                soft_wrap=as_json,
            )
        else:
            print(json.dumps(record) if as_json else _line(record), flush=True)  # noqa: T201
        count.advance(task)
        return "error" in record

    try:
        yield show
    finally:
        count.stop()


def show_records(records: Iterable[Record]) -> None:
    """Shows the records of a job on a terminal."""
    console = make_console(highlight=False)
    for record in records:
        console.print(_row(record, console.options), markup=False)


def _row(record: Record, options: ConsoleOptions) -> RenderableType:
    """Picture and classes side by side. Long text continues on the next line."""
    picture_cells = int(PICTURE_SHARE * options.max_width)
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, width=picture_cells)
    grid.add_column(overflow="fold")
    name = in_one_line(_picture(record["uri"]))
    if len(name) > picture_cells:
        cut = "..." if options.ascii_only else "…"
        name = f"{cut}{name[len(cut) - picture_cells :]}"
    picture = Text(name)
    if record.get("ref") is not None:
        picture = Text.assemble((in_one_line(record["ref"]), "bold"), "\n", name)
    grid.add_row(picture, _answer(record))
    return grid


def _line(record: Record) -> str:
    return f"{in_one_line(record['uri'])}\t{_answer(record)}"


def _answer(record: Record) -> Text:
    if "error" in record:
        error = record["error"]
        detail = f": {error['detail']}" if error["detail"] else ""
        return words(f"{error['code']}{detail}", "red")
    first, *others = (f"{in_one_line(g['label'])} {g['score']:.1%}" for g in record["top5"])
    return Text.assemble((first, "bold"), *(f", {other}" for other in others))


def _picture(uri: str) -> str:
    """The name of a file, relative to the current folder if it is below it. Links stay as named."""
    if not is_file(uri):
        return uri
    try:
        path = Path(os.fsdecode(unquote_to_bytes(urlsplit(uri).path)))
        return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
    except (ValueError, OSError):
        return uri
