"""`resnextq report`: writes a job to one file, for people or for another program."""

# ruff: noqa: PLC0415  (a command imports what it needs when it runs, see `main`)

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from producer.cli.environment import open_database, read_settings
from producer.cli.extras import find
from producer.cli.options import JobArgument
from producer.cli.output import tell


class Format(StrEnum):
    """Values of `--format`."""

    html = "html"
    label_studio = "label-studio"
    fiftyone = "fiftyone"


def report(
    job: JobArgument,
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="FILE|URL", help="The file to write, or s3://bucket/key."
        ),
    ],
    form: Annotated[
        Format,
        typer.Option(
            "--format",
            help="html: one file, readable without a network; label-studio: JSON to import there; "
            "fiftyone: a ZIP archive of thumbnails and classes to import there.",
        ),
    ] = Format.html,
) -> None:
    """Write a report of a job to one file: progress, classes, errors, and a sample of images.

    Settings: RESNEXT_DATABASE_URL.

    Example: resnextq report 0b5f --output pets.html
    """
    from contract.database.engine import reading
    from producer.jobs.job import find_job

    settings = read_settings()
    write = find("producer.pages.write", "write_report", needs="jinja2", extra="api")
    with open_database(settings) as engine:
        with reading(engine) as connection:
            found = find_job(connection, job)
        write(engine, settings, found, form.value, output)
    tell(f"job {found.id} was written to {output}")
