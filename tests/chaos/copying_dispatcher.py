"""`resnextq dispatch` that sends each message CHAOS_COPIES times; `faults.messages` runs it."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Final

from celery import Celery

from contract.settings import load_settings
from producer.dispatcher import publish
from producer.dispatcher.loop import run_dispatcher
from producer.dispatcher.publish import Publication

log = logging.getLogger(__name__)

SENT: Final = "copied"
push = publish.push


def push_copies(app: Celery, publications: Sequence[Publication]) -> None:
    copies = int(os.environ["CHAOS_COPIES"])
    push(app, [one for publication in publications for one in [publication] * copies])
    if publications:
        log.info("%s: %d messages, each %d times", SENT, len(publications), copies)


if __name__ == "__main__":
    publish.push = push_copies
    run_dispatcher(load_settings())
