"""How the dashboard shows a chunk: in words, and without fields of Celery that we do not use.

`worker.commands.flower` gives these to Flower: a format for tasks, names of columns, and CSS rules
that hide parts of pages. Flower's templates have no option to leave those parts out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import flower
from flower.views import tasks
from tornado.web import RequestHandler

# A task's arguments say how many images it has; its exception says how many failed, and why.
COLUMNS: Final = {
    "kwargs": "Chunk",
    "state": "State",
    "exception": "Failed images",
    "received": "Received",
    "runtime": "Runtime",
    "worker": "Worker",
    "uuid": "Task",
}
"""Flower's name of a column, and our heading."""
# Useless for a chunk: a Redis queue has no exchange, SQL counts runs, and no task starts another.
UNUSED: Final = frozenset((
    "eta", "expires", "retries", "timestamp", "exchange", "routing_key", "clock", "client",
    "root", "root_id", "parent", "parent_id", "children",
))  # fmt: skip
# Celery does not retry, limit, schedule or revoke our tasks.
HIDDEN: Final = (
    '.task-state-filter[data-task-state="RETRY"]',
    "#worker-tab-limits",
    "#tab-limits",
    "#tab-tasks > table:nth-of-type(3)",
    "#tab-tasks > table:nth-of-type(5)",
)
STYLES: Final = Path(flower.__file__).parent / "static" / "css" / "flower.css"
_CHUNK: Final = re.compile(
    r"job=(?P<job>\S+) chunk=(?P<chunk>\d+) generation=(?P<generation>\d+) "
    r"images=(?P<images>\d{1,6})\b"
)


def name_columns() -> str:
    """Renames Flower's columns, and returns those to show in the form of Flower's option."""
    tasks.TASK_COLUMNS.update(COLUMNS)
    return ",".join(COLUMNS)


def format_task(task: Any) -> Any:  # noqa: ANN401  (Celery has no types)
    """Flower calls this with a copy of each task that it shows."""
    task._fields = [name for name in task._fields if name not in UNUSED]
    if named := _CHUNK.match(task.kwargs or ""):
        task.args = (
            f"chunk {named['chunk']} of job {named['job']}, {int(named['images'])} images, "
            f"generation {named['generation']}"
        )
    return task


class Styles(RequestHandler):
    """Flower's own styles, and our rules that hide parts of pages."""

    def get(self) -> None:
        self.set_header("Content-Type", "text/css; charset=UTF-8")
        self.write(STYLES.read_text(encoding="utf-8"))
        self.write(f"\n{', '.join(HIDDEN)} {{ display: none !important; }}\n")
