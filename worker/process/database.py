"""The worker's connections to SQL.

There are few of them. If the database is down, `contract.database.waits` waits until it is back:
the worker then stores what it has classified, and acknowledges no message before.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Engine

from contract.database.engine import connect_database
from contract.settings import Settings

# Claims and stores take milliseconds, so many tasks can share few connections. A fleet of workers
# must stay below the limit of a PostgreSQL server, which is 100 by default.
TASK_CONNECTIONS: Final = 8
# For the stragglers, the heartbeat, and the statements at the worker's end.
OTHER_CONNECTIONS: Final = 3


def connect(settings: Settings) -> Engine:
    """Returns an engine with these connections. Each opens when it is first needed.

    Raises:
        UnavailableError: the database does not answer, or its schema does not fit.
    """
    for_tasks = min(settings.chunks_in_flight, TASK_CONNECTIONS)
    return connect_database(settings, pool_size=for_tasks + OTHER_CONNECTIONS, max_overflow=0)
