"""`resnextq login`: prints a link that opens the pages in a browser, once."""

# ruff: noqa: PLC0415  (a command imports what it needs when it runs, see `main`)
# ruff: noqa: T201  (results go to standard output)

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from producer.cli.environment import open_database, read_settings
from producer.cli.output import tell

if TYPE_CHECKING:
    from contract.settings import Settings


def login(
    key: Annotated[
        str, typer.Option(metavar="KEY", help="Name or id of the key to log in with.")
    ] = "up",
) -> None:
    """Print a link that logs a browser in. It works once, within an hour.

    Whoever opens the link can do what the key can. Do not share it.

    Settings: RESNEXT_HOME, RESNEXT_DATABASE_URL, RESNEXT_API_ADDRESS, RESNEXT_API_PORT.

    Example: resnextq login
    """
    from producer.pages.sessions import link_of, make_link

    settings = read_settings()
    with open_database(settings) as engine:
        token = make_link(engine, key)
    print(link_of(_address(settings), token), flush=True)
    tell("It works once, within an hour, on this machine or wherever the address can be reached.")


def _address(settings: Settings) -> str:
    """The address of the API and the pages: from `up` if it runs, otherwise from the settings."""
    from contract.url import url_at

    try:
        return settings.api_url_file.read_text().strip()
    except OSError:
        return url_at(settings.api_address, settings.api_port)
