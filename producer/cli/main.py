"""`resnextq`: the command line's entry point, which registers all commands.

A command is a few lines in its group's file and connects settings, database and a module. These
files load only Typer. A command imports what it needs when it runs, so that `--help` is fast and a
machine without torch can submit. Results go to standard output, everything else to standard error.
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
    login,
    model,
    purge,
    report,
    results,
    served,
    services,
    submit,
)
from producer.cli.errors import Commands
from producer.cli.width import MARKUP, Command, Group

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=MARKUP,
    context_settings={"help_option_names": ["-h", "--help"]},
)
database_app = typer.Typer(
    cls=Group, no_args_is_help=True, help="The database's schema.", rich_markup_mode=MARKUP
)
app.add_typer(database_app, name="db")
keys_app = typer.Typer(
    cls=Group, no_args_is_help=True, help="Keys of the HTTP API.", rich_markup_mode=MARKUP
)
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
    """Classify millions of images by URI; the top-5 ImageNet classes of each go to SQL.

    Settings are RESNEXT_ environment variables, or lines of a file `.env`. docs/settings.md lists
    them.

    Exit status: 0 success, 1 an image failed (with --fail-on-error), 2 wrong usage, 3 something
    that is needed is not available.

    Example: resnextq up, and in another terminal: resnextq submit photos/ --wait
    """


# In the order of `resnextq --help`.
COMMANDS: Final[dict[str, Callable[..., None]]] = {
    "up": services.up,
    "submit": submit.submit,
    "status": jobs.status,
    "list": jobs.list_jobs,
    "results": results.results,
    "compare": results.compare,
    "report": report.report,
    "cancel": changes.cancel,
    "retry": jobs.retry,
    "pause": changes.pause,
    "resume": changes.resume,
    "edit": changes.edit,
    "purge": purge.purge,
    "workers": served.workers,
    "models": served.models,
    "classify": model.classify,
    "worker": services.worker,
    "dispatch": services.dispatch,
    "serve": services.serve,
    "login": login.login,
    "flower": services.flower,
    "doctor": doctor.doctor,
    "export": model.export,
}
for name, command in COMMANDS.items():
    app.command(name, cls=Command)(command)
database_app.command("upgrade", cls=Command)(db.upgrade)
keys_app.command("create", cls=Command)(keys.create)
keys_app.command("list", cls=Command)(keys.list_all)
keys_app.command("revoke", cls=Command)(keys.revoke)


def main() -> None:
    """Runs the command that the user typed."""
    app(prog_name="resnextq")


if __name__ == "__main__":
    main()
