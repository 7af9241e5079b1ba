"""The worker's way to SQL: few connections, over which `contract.database.waits` outlasts a
database that is away. A worker has nothing better to do than to wait: what it has fetched and
classified is stored once the database is back, and no message is acknowledged before.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Engine

from contract.database.engine import connect_database
from contract.settings import Settings

# Claims and stores take milliseconds, so that many tasks share few connections; a fleet of workers
# has to stay below what a PostgreSQL server permits, by default 100.
TASK_CONNECTIONS: Final = 8
# The straggler keeper, the heartbeat, and one for what comes at the end.
OTHER_CONNECTIONS: Final = 3


def connect(settings: Settings) -> Engine:
    """An engine with so many connections, each made when it is first wanted.

    Raises:
        UnavailableError: the database does not answer, or its schema does not fit.
    """
    for_tasks = min(settings.chunks_in_flight, TASK_CONNECTIONS)
    return connect_database(settings, pool_size=for_tasks + OTHER_CONNECTIONS, max_overflow=0)
