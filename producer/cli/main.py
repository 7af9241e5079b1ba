"""`resnextq`: the command line's entry point, which registers every command in its order.

A command is a few lines in the file of its group; it connects settings, database and a module.
Only Typer is loaded with these files. A command imports what it needs when it runs, so that
`--help` is quick and a machine without torch can submit. Results go to standard output,
everything else to standard error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final

import typer

from contract import VERSION
from producer.cli import (
    changes,
    db,
    doctor,
    jobs,
    keys,
    model,
    results,
    served,
    services,
    submit,
)
from producer.cli.errors import Commands

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # which joins the lines of a paragraph
    context_settings={"help_option_names": ["-h", "--help"]},
)
database_app = typer.Typer(no_args_is_help=True, help="The database's schema.")
app.add_typer(database_app, name="db")
keys_app = typer.Typer(no_args_is_help=True, help="Keys of the HTTP API.")
app.add_typer(keys_app, name="keys")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"resnextq {VERSION}")  # noqa: T201  (a result)
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


# In the order of `resnextq --help`.
COMMANDS: Final[dict[str, Callable[..., None]]] = {
    "up": services.up,
    "submit": submit.submit,
    "status": jobs.status,
    "list": jobs.list_jobs,
    "results": results.results,
    "compare": results.compare,
    "cancel": changes.cancel,
    "retry": jobs.retry,
    "pause": changes.pause,
    "resume": changes.resume,
    "edit": changes.edit,
    "workers": served.workers,
    "models": served.models,
    "classify": model.classify,
    "worker": services.worker,
    "dispatch": services.dispatch,
    "serve": services.serve,
    "flower": services.flower,
    "doctor": doctor.doctor,
    "export": model.export,
}
for name, command in COMMANDS.items():
    app.command(name)(command)
database_app.command("upgrade")(db.upgrade)
keys_app.command("create")(keys.create)
keys_app.command("list")(keys.list_all)
keys_app.command("revoke")(keys.revoke)


def main() -> None:
    """Runs the command that the user typed."""
    app(prog_name="resnextq")


if __name__ == "__main__":
    main()
