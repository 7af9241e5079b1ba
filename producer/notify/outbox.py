"""The notifications to send: a row for each end of a job, written in the transaction that ends it.

If a dispatcher is killed before the commit, the job has not ended; after it, the row exists. A
retried job ends again and gets another row: the event id consists of the job and the number of its
ends.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Collection
from typing import Any, Final
from urllib.parse import urlsplit

from sqlalchemy import Connection, Row, func, insert, select

from contract.database.clock import db_now, iso
from contract.database.tables import jobs, notifications
from contract.errors import UsageError

SECRET_PREFIX: Final = "whsec_"  # noqa: S105  (what every such secret begins with)
SECRET_BYTES: Final = 24
MOST_URL_CHARS: Final = 2_000
SCHEMES: Final = ("http", "https")


def make_secret() -> str:
    """A key for HMAC-SHA256, in the notation of Standard Webhooks."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def check_url(url: str | None) -> None:
    """Checks the URL of a notification.

    Raises:
        UsageError: it is not such a URL.
    """
    if url is None:
        return
    try:
        parts = urlsplit(url)
        sound = parts.scheme in SCHEMES and parts.hostname and parts.port != 0
    except ValueError:
        sound = False
    shown = url[:80] if url.isprintable() else ascii(url[:80])
    if not sound or not url.isascii() or not url.isprintable() or len(url) > MOST_URL_CHARS:
        raise UsageError(
            f"notify must be an http:// or https:// URL in ASCII of at most {MOST_URL_CHARS} "
            f"characters, got {shown!r}."
        )
    if "@" in parts.netloc or parts.fragment:
        raise UsageError(
            "notify has a password or a fragment (#…), which would not be sent. Remove it."
        )


def note_ends(connection: Connection, numbers: Collection[int]) -> None:
    """Records that these jobs have just ended, if they ask for notifications."""
    if not numbers:
        return
    wanted = jobs.c.number.in_(numbers) & jobs.c.notify_url.is_not(None)
    for job in connection.execute(select(jobs).where(wanted)).all():
        before = select(func.count()).where(notifications.c.job_id == job.id)
        event_id = f"{job.id}-{connection.execute(before).scalar_one() + 1}"
        connection.execute(
            insert(notifications).values(
                job_id=job.id,
                event_id=event_id,
                url=job.notify_url,
                secret=job.notify_secret,
                body=json.dumps(_event(job), separators=(",", ":")),
                attempts=0,
                next_attempt_at=db_now(),
            )
        )


def _event(job: Row[Any]) -> dict[str, Any]:
    return {
        "type": f"job.{job.state}",
        "timestamp": iso(job.finished_at),
        "data": {
            "id": job.id,
            "name": job.name,
            "owner": job.owner,
            "state": job.state,
            "total": job.total,
            "classified": job.classified,
            "failed": job.failed,
            "errors": job.errors,
            "created_at": iso(job.created_at),
            "finished_at": iso(job.finished_at),
        },
    }
