"""The client as users have it: a wheel in its own environment, beside their modules."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.api import Api

ROOT = Path(__file__).parents[3]
UV = Path(sys.executable).with_name("uv")

CONSUMER = """
from pathlib import Path

from resnextq import Client, Job, JobStatus, NotFound, Refused, Result

client: Client = Client("http://127.0.0.1:8080", key="k", timeout_s=1.0)


def classify(uris: list[str]) -> dict[str, str | None]:
    job: Job = client.submit(uris, name="pets", tags={"team": "search"}, key="mine")
    status: JobStatus = job.wait(timeout=60, progress=False)
    total: int = status.total
    found: dict[str, str | None] = {}
    for result in job.results(only="classified", min_score=0.5):
        one: Result = result
        found[one.uri] = one.top5[0].label if one.top5 else None
    written: Path = job.to_parquet("answers.parquet", timeout_s=60)
    assert len(found) <= total and written.exists()
    return found


def submit(images: list[tuple[str, str | None]]) -> str | None:
    try:
        return client.submit(images).id
    except NotFound:
        return None
    except Refused as refused:
        line: int | None = refused.line
        raise SystemExit(f"{refused.code} in line {line}") from refused
"""

PROGRAM = """
import sys
import producer
import worker
from resnextq import Client

assert (worker.WHOSE, producer.WHOSE) == ("mine", "mine")
ours = ("torch", "celery", "sqlalchemy", "contract", "migrations", "resnext")
assert not any(name.partition(".")[0] in ours for name in sys.modules)
job = Client(sys.argv[1], sys.argv[2]).submit(["https://a.org/1", "https://a.org/2"])
print(job.status().total)
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        | environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client's wheel. It is built from a copy of `client/`, so that nothing is left there."""
    source = tmp_path_factory.mktemp("wheel") / "client"
    shutil.copytree(ROOT / "client", source, ignore=shutil.ignore_patterns("__pycache__"))
    program = "import sys; from setuptools import build_meta as b; b.build_wheel(sys.argv[1])"
    built = run(sys.executable, "-c", program, source.parent, cwd=source)
    assert built.returncode == 0, built.stderr
    (wheel,) = source.parent.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def python(wheel: Path) -> Path:
    """The Python of an environment that has only the client and its dependencies."""
    folder = wheel.parent / "environment"
    made = run(UV, "venv", "--python", sys.executable, folder, cwd=wheel.parent)
    assert made.returncode == 0, made.stderr
    python = folder / "bin" / "python"
    install = (UV, "pip", "install", "--python", python)
    fetched = run(*install, "urllib3>=2.2", cwd=wheel.parent)
    if fetched.returncode:
        pytest.skip(f"no package index gives urllib3: {fetched.stderr.strip()[-300:]}")
    installed = run(*install, wheel, cwd=wheel.parent)
    assert installed.returncode == 0, installed.stderr
    return python


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's project, whose modules have the same names as the server's packages."""
    for module in ("worker.py", "producer.py"):
        (tmp_path / module).write_text('WHOSE = "mine"\n')
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "consumer.py").write_text(CONSUMER)
    return tmp_path


def test_the_wheel_installs_three_packages_at_most(python: Path, tmp_path: Path) -> None:
    listed = run(UV, "pip", "list", "--python", python, "--format", "json", cwd=tmp_path)
    names = {package["name"] for package in json.loads(listed.stdout)}
    assert names == {"resnextq-client", "urllib3"}
    assert run(UV, "pip", "check", "--python", python, cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_it_works_beside_modules_named_worker_and_producer(
    python: Path, project: Path, api: Api
) -> None:
    done = run(python, "program.py", api.url, api.submitter.key, cwd=project)
    assert (done.stdout, done.stderr) == ("2\n", "")


def test_a_consumer_passes_mypy_strict(python: Path, project: Path) -> None:
    """The types come from the wheel.

    Without a cache: mypy takes a file of the same second and size for the same file.
    """
    options = ("--strict", "--config-file", os.devnull, "--cache-dir", os.devnull)
    mypy = (sys.executable, "-m", "mypy", *options, "--python-executable", python)
    checked = run(*mypy, "consumer.py", cwd=project)
    assert checked.stdout == "Success: no issues found in 1 source file\n"
    wrong = CONSUMER.replace("total: int", "total: str")
    (project / "consumer.py").write_text(wrong)
    checked = run(*mypy, "consumer.py", cwd=project)
    assert 'variable has type "str"' in checked.stdout
