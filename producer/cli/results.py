"""`results`: a job's answers, printed or written to a file, a folder of parts or an object; and
`compare`: two jobs' answers side by side.
"""

# ruff: noqa: T201  (results go to standard output)
# ruff: noqa: PLC0415  (a command imports what it needs when it runs, see `main`)

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contract.errors import UsageError
from producer.cli.environment import open_database, read_job, read_settings
from producer.cli.options import Format, JobArgument, JsonOption, Only, value_of
from producer.cli.output import show, tell

if TYPE_CHECKING:
    from producer.jobs.export.export import Written
    from producer.jobs.export.sinks import FolderTarget, Target


def results(  # noqa: PLR0913, PLR0917  (a parameter for each option)
    job: JobArgument,
    layout: Annotated[
        Format,
        typer.Option("--format", help="A JSON object a line, a table with a heading, or Parquet."),
    ] = Format.jsonl,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|FOLDER/|s3://…",
            help="A file, which appears when it is whole; or a folder of parts, which an "
            "interrupted export resumes. Default: standard output.",
        ),
    ] = None,
    only: Annotated[Only | None, typer.Option(help="Leave out the others.")] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(help="Only images whose likeliest class this is; may be repeated."),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(help="Only images whose likeliest class has this score, 0 to 1."),
    ] = None,
    error: Annotated[
        list[str] | None,
        typer.Option(metavar="CODE", help="Only images with this error code; may be repeated."),
    ] = None,
    after: Annotated[
        int | None,
        typer.Option(metavar="CURSOR", help="Only images behind this position."),
    ] = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", help="Write images as they settle, until the job is finished."),
    ] = False,
    beside: Annotated[
        Path | None,
        typer.Option(
            "--with",
            metavar="INPUT",
            help="The list that was submitted: its own columns come beside the answers.",
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="With --with: only these columns. Default: all."),
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="With --with: the column that holds the URIs.")
    ] = None,
    id_column: Annotated[
        str | None, typer.Option(help="With --with: the column that holds your ids.")
    ] = None,
) -> None:
    """Print or write a line for each settled image, in the order of submission.

    jsonl has an object a line: position, uri, ref (your own id), status, top5 (label, class_id,
    score) or error (code, detail), model, attempts, and what is known of precision, final_uri,
    bytes, sha256, format, width, height.

    csv has a heading: position, uri, ref, status, label_1 to label_5, class_1 to class_5,
    score_1 to score_5, error_code, error_detail, model, precision, attempts, final_uri, bytes,
    sha256, format, width, height. parquet has the same columns, and worker and settled_at.

    Scores are softmax probabilities, highest first.
    """
    from producer.cli.render.progress import exporting
    from producer.jobs.export.choice import Choice
    from producer.jobs.export.export import Export
    from producer.jobs.export.lists import Wanted
    from producer.jobs.export.sinks import target_of

    if beside is None and (keep or column or id_column):
        raise UsageError("--keep, --column and --id-column say more of --with INPUT. Give that.")
    if layout is Format.parquet and output is None and sys.stdout.isatty():
        raise UsageError("--format parquet is no text for a terminal. Give --output FILE.")
    settings = read_settings()
    choice = Choice(
        only=value_of(only),
        labels=tuple(label or ()),
        min_score=min_score,
        errors=tuple(error or ()),
        after=after,
    )
    kept = tuple(filter(None, map(str.strip, (keep or "").split(","))))
    wanted = (
        None
        if beside is None
        else Wanted(path=beside, keep=kept, column=column, id_column=id_column)
    )
    target = target_of(output, settings)
    with open_database(settings) as engine:
        found = read_job(engine, job)
        shown = output is not None or not sys.stdout.isatty()
        with exporting(max(0, found.total - choice.start), shown=shown) as advance:
            written = Export(
                engine=engine,
                job=found,
                form=layout.value,
                choice=choice,
                follow=follow,
                wanted=wanted,
                advance=advance,
            ).write(target)
    if output is not None:
        _tell_written(written, target, layout)
    if found.pending and not follow:
        tell(f"{found.pending:,} of {found.total:,} images are not settled yet")


def _tell_written(written: Written, target: Target | FolderTarget, layout: Format) -> None:
    from producer.jobs.export.sinks import Target

    what = "rows" if layout is Format.parquet else "lines"
    if isinstance(target, Target):
        tell(f"{written.rows:,} {what} in {target.shown}")
        return
    parts = written.parts + written.kept
    there = f"; {written.kept:,} of the parts were there already" if written.kept else ""
    tell(f"{written.rows:,} {what} in {parts:,} parts in {target.shown}{there}")


def compare(
    first: JobArgument,
    second: Annotated[str, typer.Argument(metavar="JOB", help="Another one.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes and changes to show.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Compare two jobs' answers: how many agree, and which classes have changed.

    Images are paired by position where both jobs had the same list, else by your own ids, or by
    URI.
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
            tell(f"job {job.id}: {job.pending:,} of {job.total:,} images are not settled yet")
