"""What the health checks of containers share: a question to SQL, a word to people, a status.

`worker.health` and `producer.health` are such checks. No torch and no client of Redis is loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from sqlalchemy import Connection

from contract.database.engine import connect_database, reaching_database, reading
from contract.errors import ResnextQueueError
from contract.log import in_lines
from contract.settings import Settings, load_settings

Look = Callable[[Connection, Settings, int | None], str]
"""Says what is wrong with the process of that id, or with any of this machine; "": nothing."""


def check_health(look: Look, arguments: list[str]) -> int:
    """The exit status: 0 healthy, 1 not, 2 where the argument is no process id."""
    if len(arguments) > 1 or not all(argument.isdecimal() for argument in arguments):
        sys.stderr.write("The one argument is a process id, or there is none.\n")
        return 2
    pid = int(arguments[0]) if arguments else None
    try:
        settings = load_settings()
        engine = connect_database(settings)
        with reaching_database(engine), reading(engine) as connection:
            fault = look(connection, settings, pid)
    except ResnextQueueError as error:
        fault = str(error)
    if fault:
        sys.stderr.write(f"{in_lines(fault)}\n")
    return 1 if fault else 0
