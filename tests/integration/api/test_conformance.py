"""schemathesis checks that the API follows its OpenAPI document.

It makes valid and invalid requests from the document and checks each answer against it. The seed
is fixed, so every run sends the same requests. CONTRIBUTING.md says how to send more.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, update

from contract.database.clock import db_now
from contract.database.tables import jobs
from contract.settings import Settings
from producer.api.keys import create_key
from tests.servers.api import Caller, running

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

BINARIES = Path(sys.executable).parent
EXAMPLES = os.environ.get("API_EXAMPLES", "10")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "serve.log"


@pytest.fixture
def url(tmp_path: Path, settings: Settings, log: Path) -> Iterator[str]:
    """The URL of the real server, which runs as a process."""
    (tmp_path / "uploads").mkdir()
    variables = {
        "RESNEXT_API_REQUESTS_PER_S": "100000",
        "RESNEXT_UPLOADS": str(tmp_path / "uploads"),
    }
    with running(settings, log, **variables) as (_, url):
        yield url


CONFIG = """
continue-on-failure = true
request-timeout = 60
warnings = false

[generation]
deterministic = true
max-examples = {examples}
allow-extra-parameters = false  # which a schema cannot forbid, and the API does

[headers]
Authorization = "Bearer {key}"

[parameters]
"path.job_id" = "{running}"

# These two wait for what goes on.
[[operations]]
include-name = ["GET /v1/jobs/{{job_id}}", "GET /v1/jobs/{{job_id}}/events"]
parameters = {{ "path.job_id" = "{ended}" }}

# A schema cannot say which URIs, names, codes and labels there are, nor what a picture is.
[[operations]]
include-name = [
    "POST /v1/jobs", "POST /v1/images", "PATCH /v1/jobs/{{job_id}}",
    "POST /v1/jobs/{{job_id}}/retry", "GET /v1/jobs/{{job_id}}/results",
    "GET /v1/jobs/{{job_id}}/thumbnails",
]
checks.positive_data_acceptance.enabled = false
"""


@on_sqlite
def test_schemathesis_finds_nothing(url: str, engine: Engine, log: Path, tmp_path: Path) -> None:
    caller = Caller(url, create_key(engine, "fuzzer", ["read", "submit"], "ann"))
    running, ended = (
        caller.post("/v1/jobs", json={"uris": ["https://a.org/1"]}).json()["id"] for _ in range(2)
    )
    with engine.begin() as connection:
        finished = {"state": "completed", "failed": 1, "finished_at": db_now()}
        connection.execute(update(jobs).where(jobs.c.id == ended).values(finished))
    config = tmp_path / "schemathesis.toml"
    config.write_text(
        CONFIG.format(examples=EXAMPLES, key=caller.key, running=running, ended=ended)
    )
    command = [BINARIES / "st", "--config-file", config, "run", f"{url}/openapi.json", "--no-color"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not re.search(r" (ERROR|CRITICAL) |Traceback", log.read_text()), log.read_text()
