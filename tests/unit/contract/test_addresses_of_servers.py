"""Server URLs as people see them: without any part of a password, however the URL is written."""

from __future__ import annotations

import pytest

from contract.broker.connection import address_of
from contract.database.address import database_address
from contract.database.engine import make_engine
from contract.errors import SettingsError
from contract.settings import Settings, load_settings

# The two parts of a password; a message might show one part by itself.
FIRST, LAST = "hunter", "twelve"
DATABASE = "postgresql+psycopg://"


@pytest.mark.parametrize(
    "url",
    [
        f"{DATABASE}me:{FIRST}@{LAST}@db/images",
        f"{DATABASE}me:{FIRST}@{LAST}@db:5432/images?sslmode=require",
        f"{DATABASE}me@tenant:{FIRST}@{LAST}@db/images",
        f"{DATABASE}me:{FIRST}@/{LAST}@db/images",
        f"{DATABASE}me:{FIRST}@x?{LAST}=1@db/images",
        f"{DATABASE}me:{FIRST}@x/y?{LAST}=1@db/images",
        f"{DATABASE}:{FIRST}@{LAST}@db/images",
        f"postgresql://me:{FIRST}@{LAST}@db/images",
        f"{DATABASE}me:{FIRST}{LAST}@db:port/images",
    ],
)
def test_a_database_url_that_would_be_misread_is_refused_and_no_part_of_it_is_shown(
    url: str,
) -> None:
    with pytest.raises(SettingsError, match="# as %40") as refused:
        make_engine(url)
    assert FIRST not in str(refused.value)
    assert LAST not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"me:{FIRST}%40{LAST}@db/images", "me:***@db/images"),
        (f"me:{FIRST}:/?#{LAST}@db/images", "me:***@db/images"),
        (f"me@tenant:{FIRST}{LAST}@db/images", "me%40tenant:***@db/images"),
        (f"db/images?user=me&password={FIRST}{LAST}", "db/images?user=me"),
        (f"db/images?sslpassword={FIRST}{LAST}&sslmode=require", "db/images?sslmode=require"),
        ("me@db/images?application_name=a@b", "me@db/images?application_name=a%40b"),
        ("/images?host=/run/postgresql", "/images?host=%2Frun%2Fpostgresql"),
    ],
)
def test_a_database_url_is_shown_without_its_passwords(url: str, shown: str) -> None:
    """It has the form that psql takes, without `+psycopg`."""
    engine = make_engine(DATABASE + url)
    assert database_address(engine) == f"postgresql://{shown}"


@pytest.mark.parametrize("name", ["100%", "a?b", "a%3Fb", "a b#c", "ü", "a&b=c"])
def test_the_name_of_a_home_may_have_any_character(tmp_path, name: str) -> None:
    settings = Settings(home=tmp_path / name)
    engine = make_engine(settings.database())
    assert engine.url.database == f"{tmp_path}/{name}/resnext.db"
    assert engine.url.query == {}
    assert database_address(engine) == f"sqlite:///{tmp_path}/{name}/resnext.db"


def test_the_path_of_a_sqlite_database_may_have_any_character(tmp_path) -> None:
    path = f"{tmp_path}/me:1@work@home.db"
    assert make_engine(f"sqlite:///{path}").url.database == path


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"redis://:{FIRST}%40{LAST}@redis:6379/0", "redis://redis:6379/0"),
        (f"rediss://me:{FIRST}@redis/0?ssl_password={LAST}", "rediss://redis/0"),
        (f"redis+socket://:{FIRST}@/run/redis?virtual_host=1", "redis+socket:///run/redis"),
    ],
)
def test_a_broker_url_is_shown_without_its_passwords(monkeypatch, url: str, shown: str) -> None:
    monkeypatch.setenv("RESNEXT_BROKER_URL", url)
    settings = load_settings()
    assert address_of(settings.broker()) == shown
    assert FIRST not in f"{settings!r} {settings}"


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("connect_timeout=soon", "connect_timeout must be a whole number, got 'soon'"),
        ("prepare_threshold=often", "prepare_threshold must be a whole number, or none, got"),
        ("prepare_threshold=-1", "prepare_threshold must be a whole number, or none, got '-1'"),
        ("tcp_user_timeout=1.5", "tcp_user_timeout must be a whole number, got '1.5'"),
        ("autocommit=true", "has the option autocommit, which"),
        ("sslmode=require&sslmode=disable", "has the option sslmode more than once"),
    ],
)
def test_a_wrong_option_in_a_database_url_is_named(option: str, words: str) -> None:
    with pytest.raises(SettingsError, match="RESNEXT_DATABASE_URL") as refused:
        make_engine(f"{DATABASE}me@db/images?{option}")
    assert words in str(refused.value)


@pytest.mark.parametrize("option", ["timeout=long", "cached_statements=1.5", "timeout=1&timeout=2"])
def test_a_wrong_option_in_a_sqlite_url_is_named(option: str) -> None:
    with pytest.raises(SettingsError, match=f"option {option.partition('=')[0]} must be a number"):
        make_engine(f"sqlite:////x.db?{option}")
