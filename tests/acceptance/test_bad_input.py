"""Commands refuse bad settings, servers and input with a clear message, and change nothing."""

from __future__ import annotations

import sqlite3

import pytest
from sqlalchemy.engine import make_url

from contract.database.schema import NEWEST_SCHEMA, OLDEST_SCHEMA

COMMANDS = {
    "submit": ("submit", "http://a.example/1.jpg", "--name", "one"),
    "status": ("status", "0123456789abcdef"),
    "results": ("results", "0123456789abcdef"),
    "cancel": ("cancel", "0123456789abcdef"),
    "retry": ("retry", "0123456789abcdef"),
    "list": ("list",),
    "dispatch": ("dispatch",),
    "worker": ("worker",),
}

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
every_command = pytest.mark.parametrize("command", COMMANDS)


@pytest.fixture
def contents(database_url, valkey):
    """Everything in the database and in Redis, as one value to compare."""
    path = make_url(database_url).database

    def read() -> tuple[list[str], list[bytes]]:
        connection = sqlite3.connect(path)
        rows = list(connection.iterdump())
        connection.close()
        with valkey.client() as client:
            return rows, client.keys()

    return read


def set_schema(database_url: str, number: str) -> None:
    connection = sqlite3.connect(make_url(database_url).database)
    connection.execute("UPDATE alembic_version SET version_num = ?", [number])
    connection.commit()
    connection.close()


def assert_refused(installation, command: str, status: int, *words: str) -> None:
    """The command exits with this status, and its message on standard error has these words."""
    done = installation.call(*COMMANDS.get(command, (command,)))
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


RANGE = f"works with schema {OLDEST_SCHEMA:04} to {NEWEST_SCHEMA:04}"
OUTSIDE = {
    "0000": ("no schema yet", "Run `resnextq db upgrade`"),
    "0001": ("is 0001, too old", "Run `resnextq db upgrade`"),
    "0999": ("is 0999, too new", "Upgrade resnext-queue"),
}


@every_command
@pytest.mark.parametrize("schema", OUTSIDE)
def test_a_schema_outside_the_range_stops_every_command(
    installation, database_url, contents, command, schema
) -> None:
    set_schema(database_url, schema)
    before = contents()
    assert_refused(installation, command, 3, *OUTSIDE[schema], RANGE)
    assert contents() == before


@every_command
def test_a_missing_database_stops_every_command(installation, tmp_path, command) -> None:
    path = tmp_path / "typo.db"
    installation.environment["RESNEXT_DATABASE_URL"] = f"sqlite:///{path}"
    assert_refused(installation, command, 3, f"no database at {path}", "RESNEXT_DATABASE_URL")
    assert not path.exists()


@pytest.mark.parametrize("command", [*COMMANDS, "flower", "up"])
def test_a_bad_setting_stops_every_command(installation, contents, command) -> None:
    installation.environment["RESNEXT_LEASE_S"] = "soon"
    before = contents()
    assert_refused(installation, command, 2, "RESNEXT_LEASE_S is 'soon'")
    assert contents() == before
    assert not (installation.folder / "home").exists()


@pytest.mark.parametrize("command", ["status", "results", "cancel", "retry"])
def test_the_error_for_an_unknown_job_lists_the_known_ones(installation, contents, command) -> None:
    job = installation.submit("http://a.example/1.jpg")
    before = contents()
    assert_refused(
        installation, command, 2, "No job has the id or the name '0123456789abcdef'", job
    )
    assert contents() == before


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        (["gone.txt"], "gone.txt"),
        (["empty.txt"], "no URI"),
        (["list.txt"], "list.txt, line 2: a.example/2.jpg: no scheme"),
        (["http://a.example/1.jpg", "gopher://a.example/2.jpg"], "gopher: is not one of"),
        ([], "SOURCE"),
    ],
)
def test_bad_sources_are_refused_and_nothing_is_submitted(
    installation, contents, tmp_path, sources, words
) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "list.txt").write_text("http://a.example/1.jpg\na.example/2.jpg\n")
    before = contents()
    done = installation.call("submit", *sources)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert contents() == before


def test_a_worker_that_cannot_start_takes_no_messages(installation, contents) -> None:
    installation.submit("http://a.example/1.jpg")
    installation.environment["RESNEXT_WEIGHTS"] = "/not/there.pth"
    before = contents()
    assert_refused(installation, "worker", 3, "/not/there.pth")
    assert contents() == before
