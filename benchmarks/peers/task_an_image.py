"""The usual way to process images with Celery: one task per image on a prefork pool.

benchmarks/pipeline.py starts it as `celery --app benchmarks.peers.task_an_image worker`, on an
installation's broker, with its own queue. A task fetches with `requests` over kept connections,
decodes and crops like ours, and counts itself in Redis. It stores no result, which is in its
favour.
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

import redis
import requests
from celery import Celery
from PIL import Image
from requests.adapters import HTTPAdapter

from benchmarks.rig.child import ROOT
from resnext.picture.preprocess import resize_and_crop, to_rgb
from resnext.spec.catalogue import find_spec

if TYPE_CHECKING:  # the pool's processes need no database server
    from benchmarks.rig.installation import Installation

TIMEOUT_S = 20.0
READY_WITHIN_S = 120.0
POLL_S = 0.1
# Hosts of the web: a connection to each is kept.
HOSTS = 64
PREPROCESSING = find_spec("resnext101_32x4d").preprocessing
# Variables for the pool's processes.
QUEUE, BROKER = "TASK_AN_IMAGE_QUEUE", "RESNEXT_BROKER_URL"

app = Celery("task_an_image", broker=os.environ.get(BROKER), set_as_current=False)
app.conf.update(task_ignore_result=True, task_default_queue=os.environ.get(QUEUE, "none"))


def client_of(broker_url: str) -> redis.Redis:
    """A separate Redis client, because Celery's may be waiting for a reply to a ping."""
    url = broker_url.replace("redis+socket:", "unix:").replace("virtual_host=", "db=")
    return redis.Redis.from_url(url)


@cache
def session() -> requests.Session:
    """The process's only session."""
    opened = requests.Session()
    opened.trust_env = False
    opened.mount("http://", HTTPAdapter(pool_connections=HOSTS))
    return opened


@cache
def counter() -> redis.Redis:
    return client_of(os.environ[BROKER])


@app.task(name="classify_image")
def classify_image(uri: str) -> None:
    try:
        body = session().get(uri, timeout=TIMEOUT_S).content
        resize_and_crop(to_rgb(Image.open(io.BytesIO(body))), PREPROCESSING)
    except (requests.RequestException, OSError):
        pass  # a failure counts as an answer
    finally:
        counter().incr(app.conf.task_default_queue + ".done")


class Pool:
    """The producer's side of the pool."""

    def __init__(self, broker_url: str, queue: str) -> None:
        self._app = Celery("producer", broker=broker_url, set_as_current=False)
        self._queue = queue
        self._done = client_of(broker_url)

    def await_ready(self) -> None:
        deadline = time.monotonic() + READY_WITHIN_S
        while not any(self._queue in answer for answer in self._pings()):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self._queue} does not answer")

    def run(self, uris: list[str]) -> float:
        """Runs the tasks; returns the seconds from the first message to the last task's end."""
        done, began = self._done, time.monotonic()
        done.set(f"{self._queue}.done", 0)
        with self._app.producer_pool.acquire(block=True) as producer:
            for uri in uris:
                self._app.send_task(
                    "classify_image",
                    (uri,),
                    queue=self._queue,
                    producer=producer,
                    ignore_result=True,
                )
        while int(done.get(f"{self._queue}.done")) < len(uris):
            time.sleep(POLL_S)
        return time.monotonic() - began

    def close(self) -> None:
        self._done.close()
        self._app.close()

    def _pings(self) -> list[str]:
        return [name for answer in self._app.control.ping(timeout=1.0) for name in answer]


@contextmanager
def prefork_pool(installation: Installation, concurrency: int) -> Iterator[Pool]:
    queue = f"prefork-{concurrency}"
    celery = [sys.executable, "-m", "celery", "--workdir", str(ROOT)]
    pool_of = ["--pool", "prefork", "--concurrency", str(concurrency), "--hostname", queue]
    quiet = ["--loglevel", "WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    installation.start_program(
        [*celery, "--app", "benchmarks.peers.task_an_image", "worker", *pool_of, *quiet],
        log=installation.log(queue),
        environment={QUEUE: queue},
    )
    pool = Pool(installation.environment[BROKER], queue)
    try:
        pool.await_ready()
        yield pool
    finally:
        pool.close()
