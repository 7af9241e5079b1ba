"""What monitors such as Flower are told of a chunk some of whose images have failed.

Celery knows a task that returned or raised. Ours returns when its chunk is stored, also where
images failed, so Celery alone would never show a failure. `worker.main` calls `tell_failures`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from celery import Celery, Task
from celery.worker import state
from celery.worker.request import Request

DROPPED: Final = "dropped"
"""How the task's answer begins where a message stood for nothing."""


class ChunkRequest(Request):  # type: ignore[misc]  # Celery has no types
    """A task as Celery runs it, which tells of failed images as `task-failed`.

    The event keeps result and run time, and its exception says how many images failed and why.
    Nothing else changes: the message is acknowledged, and nothing is logged.
    """

    failure: str | None = None

    def send_event(self, type: str, **fields: Any) -> None:  # noqa: A002, ANN401  (Celery's name)
        if type == "task-succeeded" and self.failure is not None:
            type = "task-failed"  # noqa: A001
            fields["exception"] = self.failure
        super().send_event(type, **fields)


class TellingTask(Task):  # type: ignore[misc]
    """A task that notes failures on its request."""

    Request = ChunkRequest

    def on_success(self, retval: object, task_id: str, *_: object) -> None:
        """Called by Celery in the task's thread, before it tells of the task."""
        request = state.requests.get(task_id)
        if request is not None:
            request.failure = failure_in(getattr(retval, "answer", retval))


def tell_failures(app: Celery) -> None:
    """Makes the tasks that are registered from now on tell of failed images."""
    app.task_cls = TellingTask


def failure_in(answer: object) -> str | None:
    """What a task's answer says of failures: `2 of 64 images failed: http_404 2`."""
    match answer:
        case {"images": images, "failed": Mapping() as failed} if failed:
            counts = ", ".join(f"{code} {count}" for code, count in sorted(failed.items()))
            return f"{sum(failed.values())} of {images} images failed: {counts}"
        case str() if not answer.startswith(DROPPED):
            return answer
    return None
