"""`/workers` shows each worker's queue, rate and images in flight."""

from __future__ import annotations

import re
from html import unescape

from sqlalchemy import Engine, insert, update

from contract.database.clock import db_now
from contract.database.tables import chunks, workers
from producer.submit.submission import submit
from tests.servers.visitor import Visitor
from tests.settled import QUEUE


def shown(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


def add_worker(engine: Engine, name: str, rate: float, *, stopping: bool = False) -> None:
    with engine.begin() as connection:
        connection.execute(
            insert(workers).values(
                name=name, queue=QUEUE, device="NVIDIA H200", precision="fp16", version="1.2.3",
                images_per_s=rate, started_at=db_now(), heartbeat_at=db_now(), stopping=stopping,
            )
        )  # fmt: skip


def test_without_workers_the_page_says_how_to_start_one(visitor: Visitor) -> None:
    page = shown(visitor.get("/workers").text)
    assert "No worker is running. Start one with resnextq worker" in page


def test_workers_show_what_they_do(visitor: Visitor, engine: Engine) -> None:
    submit(engine, [(f"https://a.org/{n}", None) for n in range(60)])
    add_worker(engine, "busy:1", 12.0)
    add_worker(engine, "idle:2", 0.0)
    add_worker(engine, "leaving:3", 5.0, stopping=True)
    with engine.begin() as connection:
        connection.execute(update(chunks).values(state="running", worker="busy:1"))
    for path in ("/workers", "/workers?part=fleet"):
        page = shown(visitor.get(path).text)
        assert "Workers 3 Images per second 17.0 Images in flight 60" in page
        assert f"busy:1 busy {QUEUE}, version 1.2.3 NVIDIA H200 fp16" in page
        assert "12.0 60 5 s of work" in page
        assert "idle:2 idle" in page
        assert "leaving:3 stopping" in page
        assert "resnext101_32x4d nvidia amp 2 60" in page
