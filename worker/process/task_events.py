"""Reports chunks with failed images to monitors such as Flower.

For Celery a task either returned or raised. Our task returns once its chunk is stored, even if
images failed, so Celery alone would never show a failure. `worker.main` calls `tell_failures`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from celery import Celery, Task
from celery.worker import state
from celery.worker.request import Request

DROPPED: Final = "dropped"
"""The task's answer starts with this if its message had no work."""


class ChunkRequest(Request):  # type: ignore[misc]  # Celery has no types
    """A running task, as Celery keeps it. Sends `task-failed` if images failed.

    The event keeps the result and the run time, and its exception says how many images failed and
    why. Nothing else changes: the message is acknowledged, and nothing is logged.
    """

    failure: str | None = None

    def send_event(self, type: str, **fields: Any) -> None:  # noqa: A002, ANN401  (Celery's name)
        if type == "task-succeeded" and self.failure is not None:
            type = "task-failed"  # noqa: A001
            fields["exception"] = self.failure
        super().send_event(type, **fields)


class TellingTask(Task):  # type: ignore[misc]
    """A task that notes failed images on its request."""

    Request = ChunkRequest

    def on_success(self, retval: object, task_id: str, *_: object) -> None:
        """Celery calls this in the task's thread, before it sends the event."""
        request = state.requests.get(task_id)
        if request is not None:
            request.failure = failure_in(getattr(retval, "answer", retval))


def tell_failures(app: Celery) -> None:
    """Makes tasks that are registered after this call report failed images."""
    app.task_cls = TellingTask


def failure_in(answer: object) -> str | None:
    """The failures in a task's answer, such as `2 of 64 images failed: http_404 2`."""
    match answer:
        case {"images": images, "failed": Mapping() as failed} if failed:
            counts = ", ".join(f"{code} {count}" for code, count in sorted(failed.items()))
            return f"{sum(failed.values())} of {images} images failed: {counts}"
        case str() if not answer.startswith(DROPPED):
            return answer
    return None
