"""A program that submits. It runs in a clean environment; `mypy --strict` checks it."""

from __future__ import annotations

import sys
from pathlib import Path

from contract.database.engine import make_engine, reading
from contract.settings import Settings, load_settings
from migrations.upgrade import upgrade
from producer.jobs.cancel import cancel
from producer.jobs.job import Job, find_job
from producer.submit.submission import submit


def main(folder: Path) -> None:
    engine = make_engine(f"sqlite:///{folder.absolute() / 'jobs.db'}")
    upgrade(engine)
    settings: Settings = load_settings()
    images = ((f"https://a.example/{n}.jpg", None) for n in range(3))
    job_id: str = submit(engine, images, name="three", settings=settings)
    with reading(engine) as connection:
        job: Job = find_job(connection, job_id)
    total: int = job.total
    state: str = cancel(engine, job_id).state
    assert (total, state) == (3, "cancelled")
    assert "torch" not in sys.modules


if __name__ == "__main__":
    main(Path(sys.argv[1]))
