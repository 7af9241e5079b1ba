"""`results`: a job's answers, printed or written to a file, a folder of parts or an object.
`compare`: two jobs' answers side by side.
"""

# ruff: noqa: T201  (results go to standard output)
# ruff: noqa: PLC0415  (a command imports what it needs when it runs, see `main`)

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from contract.errors import UsageError
from producer.cli import completion
from producer.cli.environment import open_database, read_job, read_settings
from producer.cli.options import Format, JobArgument, JsonOption, Only, value_of
from producer.cli.output import show, tell

if TYPE_CHECKING:
    from producer.jobs.export.export import Export, Written
    from producer.jobs.export.sinks import FolderTarget, Target


def results(  # noqa: PLR0913, PLR0917  (a parameter for each option)
    job: JobArgument,
    layout: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="jsonl: one JSON object per line; csv; or parquet. Default: a table on a "
            "terminal; jsonl in a pipe, or with --with.",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|FOLDER/|URL",
            help="Write to this file, which appears only when complete; or write parts to this "
            "folder, where an interrupted export resumes. Default: standard output.",
        ),
    ] = None,
    only: Annotated[
        Only | None, typer.Option(help="Only classified or only failed images.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="CLASS", help="Only images with this top class; may be repeated."),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(metavar="SCORE", help="Only images whose top score is at least this, 0 to 1."),
    ] = None,
    error: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CODE",
            help="Only images with this error code; may be repeated.",
            autocompletion=completion.error_codes,
        ),
    ] = None,
    after: Annotated[
        int | None,
        typer.Option(metavar="POSITION", help="Only images after this position."),
    ] = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", help="Write images as they are done, until the job ends."),
    ] = False,
    beside: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="INPUT",
            help="A source that was submitted: add its columns to the results. Repeat it for each "
            "source, in the order of submit.",
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="With --with: add only these columns. Default: all."),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="With --with: the column that holds the URIs."),
    ] = None,
    id_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="With --with: the column that holds your ids."),
    ] = None,
) -> None:
    """Print the results of a job, or write them to a file; in the order of submission.

    Example: resnextq results last --format parquet --output pets.parquet

    On a terminal each image has its name, and its classes with their scores or its error.

    jsonl: each line has position, uri, ref (your own id), status, top5 (label, class_id, score) or
    error (code, detail), model, attempts, and where known precision, final_uri, bytes, sha256,
    format, width, height.

    csv: the columns are position, uri, ref, status, label_1 to label_5, class_1 to class_5,
    score_1 to score_5, error_code, error_detail, model, precision, attempts, final_uri, bytes,
    sha256, format, width, height, orientation. parquet has the same columns, and worker and
    settled_at.

    Scores are softmax probabilities, highest first.

    Settings: RESNEXT_DATABASE_URL.
    """
    from contract.served import with_served
    from producer.cli.render.progress import exporting
    from producer.jobs.export.choice import Choice
    from producer.jobs.export.export import Export
    from producer.jobs.export.input import Input
    from producer.jobs.export.sinks import target_of

    if not beside and (keep or column or id_column):
        raise UsageError(
            "--keep, --column and --id-column need --with INPUT. Add it, or leave them out."
        )
    on_terminal = output is None and sys.stdout.isatty()
    if layout is Format.parquet and on_terminal:
        raise UsageError("--format parquet cannot be printed on a terminal. Give --output FILE.")
    settings = read_settings()
    choice = Choice(
        only=value_of(only),
        labels=tuple(label or ()),
        min_score=min_score,
        errors=tuple(error or ()),
        after=after,
    )
    kept = tuple(dict.fromkeys(filter(None, map(str.strip, (keep or "").split(",")))))
    given = Input(beside, with_served(settings), column, id_column, kept) if beside else None
    target = target_of(output, settings)
    with open_database(settings) as engine:
        found = read_job(engine, job)
        shown = output is not None or _is_file(sys.stdout)
        with exporting(max(0, found.total - choice.start), shown=shown) as advance:
            export = Export(
                engine=engine,
                job=found,
                form=(layout or Format.jsonl).value,
                choice=choice,
                follow=follow,
                given=given,
                advance=advance,
            )
            written = None
            if layout is None and on_terminal and given is None:
                _show(export)
            else:
                written = export.write(target)
    if output is not None and written is not None:
        _tell_written(written, target)
    if found.pending and not follow:
        tell(f"{found.pending:,} of {found.total:,} images are not finished yet")


def _show(export: Export) -> None:
    from producer.cli.render.answers import show_records

    show_records(export.records())


def _is_file(stream: TextIO) -> bool:
    """Whether the stream is a file. What reads a pipe may print, so no bar may come between."""
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):  # ValueError: it is not a real file
        return False


def _tell_written(written: Written, target: Target | FolderTarget) -> None:
    from producer.jobs.export.sinks import Target

    images = "1 image" if written.rows == 1 else f"{written.rows:,} images"
    if isinstance(target, Target):
        tell(f"{images} in {target.shown}")
        return
    parts = written.parts + written.kept
    there = f"; {written.kept:,} of the parts were already there" if written.kept else ""
    tell(f"{images} in {parts:,} parts in {target.shown}{there}")


def compare(
    first: JobArgument,
    second: Annotated[
        str, typer.Argument(metavar="JOB", help="The other job.", autocompletion=completion.jobs)
    ],
    top: Annotated[
        int, typer.Option(metavar="N", min=1, help="How many classes and changes to show.")
    ] = 20,
    as_json: JsonOption = False,
) -> None:
    """Compare the results of two jobs: how many top classes agree, and which differ.

    Images are paired by position if both jobs had the same list, otherwise by your own ids or by
    URI.

    Settings: RESNEXT_DATABASE_URL.

    Example: resnextq compare 0b5f0c6a 7d21aa03
    """
    import json

    from producer.cli.render.compare import render_comparison
    from producer.jobs import compare as comparing

    with open_database(read_settings()) as engine:
        jobs = read_job(engine, first), read_job(engine, second)
        found = comparing.compare(engine, *jobs)
    if as_json:
        print(json.dumps(comparing.as_json(found, top)))
    else:
        show(render_comparison(found, top))
    for job in jobs:
        if job.pending:
            tell(f"job {job.id}: {job.pending:,} of {job.total:,} images are not finished yet")
