"""The common part of the containers' health checks: ask SQL, print what is wrong, exit.

`worker.health` and `producer.health` are such checks. They load neither torch nor a Redis client.
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
"""What is wrong with the process of this id or, without an id, with this machine's processes; "" if
nothing is."""


def check_health(look: Look, arguments: list[str]) -> int:
    """The exit status: 0 healthy, 1 not healthy, 2 if the argument is not a process id."""
    if len(arguments) > 1 or not all(argument.isdecimal() for argument in arguments):
        sys.stderr.write("Give one process id, or no argument.\n")
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
