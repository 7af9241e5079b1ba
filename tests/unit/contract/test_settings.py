"""Settings: where they come from, what is refused and in which words, and what stays secret."""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from typing import NoReturn

import pytest

from contract.errors import SettingsError, UnavailableError
from contract.settings import Settings, load_settings, unknown_variables

SECRET = "hunter2"
SECRETS = {
    "RESNEXT_BROKER_URL": f"redis://:{SECRET}@127.0.0.1/0",
    "RESNEXT_DATABASE_URL": f"postgresql://me:{SECRET}@127.0.0.1/images",
    "RESNEXT_FLOWER_LOGIN": f"me:{SECRET}",
}


def refusal(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refused:
        load_settings()
    return str(refused.value)


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("RESNEXT_CHUNK_IMAGES", "300", "less than or equal to 256"),
        ("RESNEXT_CHUNK_IMAGES", "many", "integer"),
        ("RESNEXT_PRECISION", "fp8", "'amp' or 'fp32'"),
        ("RESNEXT_LEASE_S", "inf", "finite"),
        ("RESNEXT_LEASE_S", "nan", "finite"),
        ("RESNEXT_FETCH_DEADLINE_S", "0", "greater than 0"),
        ("RESNEXT_FETCHES_PER_HOST", "0", "greater than or equal to 1"),
        ("RESNEXT_HOST_IMAGES_PER_S", "0", "greater than or equal to 0.001"),
        ("RESNEXT_FLOWER_PORT", "70000", "less than or equal to 65535"),
        ("RESNEXT_LOG_LEVEL", "loud", "'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
        ("RESNEXT_UPLOADS", "https://a.org/pictures/", "a prefix such as s3://bucket/uploads/"),
        ("RESNEXT_UPLOADS", "s3://", "no valid bucket name"),
        ("RESNEXT_UPLOADS", "s3://bucket/a/../b/", "no . or .. part"),
        ("RESNEXT_FETCH_ALLOW", "10.0.0.0/99", "network"),
        ("RESNEXT_FETCH_ALLOW", "10.0.0.1/8", "host bits set"),
        ("RESNEXT_FETCH_ALLOW", "*", "to open every address, write 0.0.0.0/0,::/0"),
        ("RESNEXT_FETCH_ALLOW", "*:80", "no host has that name; write a host, *.suffix"),
        ("RESNEXT_FETCH_ALLOW", "*internal", "no host has that name"),
        ("RESNEXT_FETCH_ALLOW", "img*.internal", "no host has that name"),
        ("RESNEXT_FETCH_ALLOW", "*.*.internal", "no host has that name"),
        ("RESNEXT_FETCH_ALLOW", "a..internal", "no host has that name"),
        ("RESNEXT_FETCH_ALLOW", ".", "no host has that name"),
        ("RESNEXT_FETCH_ALLOW", "a b", "no host has that name"),
        ("RESNEXT_FETCH_ALLOW", "me@images.internal", "no host has that name"),
        ("RESNEXT_FETCH_ALLOW", "fe80::1%eth0", "; write a host"),
        ("RESNEXT_FETCH_ALLOW", "http://images.internal/", "it must not be a URL; write a host"),
        ("RESNEXT_FETCH_ALLOW", "images.internal:0", "its port is '0', not 1 to 65535"),
        ("RESNEXT_FETCH_ALLOW", "images.internal:", "its port is '', not 1 to 65535"),
        ("RESNEXT_FETCH_ALLOW", "images.internal:http", "its port is 'http'"),
        ("RESNEXT_FETCH_ALLOW", "[::1]:70000", "its port is '70000'"),
        ("RESNEXT_FETCH_ALLOW", "0x7f000001", "write all four numbers"),
        ("RESNEXT_FETCH_ALLOW", "127.1", "write all four numbers, such as 127.0.0.1"),
        ("RESNEXT_FETCH_ALLOW", "bücher.example", "write xn--bcher-kva.example"),
        ("RESNEXT_FETCH_PORTS", "65536", "less than or equal to 65535"),
        ("RESNEXT_FETCH_PORTS", "https", "integer"),
        ("RESNEXT_ROBOTS", "yes", "'honour' or 'ignore'"),
        ("RESNEXT_CONTACT", "me@example.org\nHost: x", "printable ASCII"),
        ("RESNEXT_CONTACT", "mü@example.org", "printable ASCII"),
    ],
)
def test_a_bad_value_is_refused_with_its_variable_and_what_is_allowed(
    monkeypatch, variable, value, allowed
) -> None:
    message = refusal(monkeypatch, **{variable: value})
    assert variable in message
    assert repr(value) in message
    assert allowed in message


def test_all_bad_values_are_named_at_once(monkeypatch) -> None:
    message = refusal(monkeypatch, RESNEXT_LEASE_S="soon", RESNEXT_LOADERS="0")
    assert len(message.splitlines()) == 2


def test_the_bad_item_of_a_list_is_named(monkeypatch) -> None:
    message = refusal(monkeypatch, RESNEXT_FETCH_ALLOW="localhost:80, 10.0.0.0/99")
    assert "RESNEXT_FETCH_ALLOW is '10.0.0.0/99'" in message


def test_a_bad_command_line_option_is_named_with_its_value() -> None:
    with pytest.raises(SettingsError, match="RESNEXT_PRECISION is 'fp8'"):
        load_settings(precision="fp8")


def test_a_bad_value_in_the_env_file_is_named(monkeypatch, tmp_path) -> None:
    (tmp_path / ".env").write_text("RESNEXT_LOADERS=none\n")
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")
    assert "RESNEXT_LOADERS is 'none'" in refusal(monkeypatch)


def test_an_env_file_that_is_not_utf_8_is_refused_with_the_place(monkeypatch, tmp_path) -> None:
    (tmp_path / ".env").write_bytes(b"# gr\xfc\xdfe\nRESNEXT_LOADERS=2\n")
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")
    assert refusal(monkeypatch) == (
        "The file .env is not UTF-8: its byte 5 is 0xfc. Save it as UTF-8."
    )


def test_a_user_without_a_home_folder_gets_a_message(monkeypatch) -> None:
    def unknown(_uid: int) -> NoReturn:
        raise KeyError

    for name in ("HOME", "RESNEXT_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    message = refusal(monkeypatch)
    assert message.startswith("This user has no home folder: HOME is not set")
    assert message.endswith("Set HOME.")


def test_unknown_variables_and_env_file_entries_are_reported_with_the_nearest_name(
    monkeypatch, tmp_path
) -> None:
    (tmp_path / ".env").write_text("RESNEXT_LOADER=4\nRESNEXT_LOADERS=4\nOTHER=1\n")
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")
    monkeypatch.setenv("RESNEXT_MODLE", "x")
    assert unknown_variables() == [
        ("RESNEXT_LOADER", "RESNEXT_LOADERS"),
        ("RESNEXT_MODLE", "RESNEXT_MODEL"),
    ]
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / "none")
    assert [name for name, _ in unknown_variables()] == ["RESNEXT_MODLE"]


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("RESNEXT_BROKER_URL", f"amqp://me:{SECRET}@host", "begins with amqp:; allowed: redis://"),
        ("RESNEXT_BROKER_URL", SECRET, "begins with no scheme"),
        ("RESNEXT_DATABASE_URL", f"mysql://me:{SECRET}@host/x", "begins with mysql:; allowed: po"),
        ("RESNEXT_FLOWER_LOGIN", SECRET, "RESNEXT_FLOWER_LOGIN must be user:password"),
    ],
)
def test_a_bad_secret_is_refused_without_being_shown(monkeypatch, variable, value, words) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert words in str(refused.value)
    assert variable in str(refused.value)
    assert SECRET not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}@localhost:abc/0",
        f"redis://:{SECRET}@localhost/notanumber",
        f"redis://:{SECRET}@localhost/0/1",
        f"redis://:{SECRET}@localhost/-1",
        f"redis://:{SECRET}@localhost:70000/0",
        f"redis://:{SECRET}@[::1/0",
        f"redis://:a/{SECRET}@localhost/0",
        f"redis://:1/{SECRET}@localhost/0",
        f"redis://:a?{SECRET}@localhost/0",
        f"redis://:1?{SECRET}@localhost/0",
        f"redis://:a#{SECRET}@localhost/0",
        f"redis://:1#{SECRET}@localhost/0",
        f"redis://:a@{SECRET}@localhost/0",
        f"redis://:{SECRET}@a/0;redis://:{SECRET}@b/0",
        f"rediss://:a/{SECRET}@localhost/0",
        f"redis+socket://:{SECRET}@",
        f"redis+socket://:1/{SECRET}@/run/redis?virtual_host=0",
        f"redis+socket://:{SECRET}@/run/redis?virtual_host=x",
    ],
)
def test_a_broker_url_that_would_be_misread_is_refused_and_no_part_of_it_is_shown(
    monkeypatch, url
) -> None:
    monkeypatch.setenv("RESNEXT_BROKER_URL", url)
    with pytest.raises(SettingsError, match="RESNEXT_BROKER_URL cannot be read as a URL") as it:
        load_settings()
    assert SECRET not in "".join(traceback.format_exception(it.value))


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis:///",
        "redis://localhost:6379/0",
        "redis://:a%2Fb%40c%23%3F@localhost:6379/12",
        "rediss://me:secret@redis.example/1?ssl_cert_reqs=required",
        "redis://:secret@[::1]:6379/0",
        "redis+socket://:secret@/run/redis/redis.sock?virtual_host=3",
        "redis+socket:///run/redis.sock",
    ],
)
def test_these_forms_of_a_broker_url_are_accepted(monkeypatch, url) -> None:
    monkeypatch.setenv("RESNEXT_BROKER_URL", url)
    assert load_settings().broker() == url


def test_a_bad_value_beside_a_secret_does_not_reveal_the_secret(monkeypatch) -> None:
    message = refusal(monkeypatch, **SECRETS, RESNEXT_LOADERS="-1")
    assert SECRET not in message


def test_secrets_are_in_no_repr_and_no_str(monkeypatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.broker() == SECRETS["RESNEXT_BROKER_URL"]
    assert SECRET not in f"{settings} {settings!r} {settings.model_dump()} "
    assert SECRET not in settings.model_dump_json()


def test_lists_are_separated_by_commas_and_blanks_are_ignored(monkeypatch) -> None:
    monkeypatch.setenv("RESNEXT_FETCH_ALLOW", " Example.org:8080, 10.0.0.0/8,,")
    assert load_settings().fetch_allow == ("example.org:8080", "10.0.0.0/8")


def test_ports_become_numbers(monkeypatch) -> None:
    monkeypatch.setenv("RESNEXT_FETCH_PORTS", "80, 443")
    assert load_settings().fetch_ports == (80, 443)


def test_file_roots_become_absolute(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("RESNEXT_FILE_ROOTS", "/data,~/pictures,here")
    expected = (Path("/data"), Path("/home/someone/pictures"), tmp_path / "here")
    assert load_settings().file_roots == expected


def test_no_folder_is_a_file_root_by_default() -> None:
    assert load_settings().file_roots == ()


def test_an_empty_variable_counts_as_unset(monkeypatch) -> None:
    monkeypatch.setenv("RESNEXT_CHUNK_IMAGES", "")
    monkeypatch.setenv("RESNEXT_BROKER_URL", "")
    assert load_settings().chunk_images is None
    assert load_settings().broker_url is None


def test_the_command_line_overrides_the_environment_and_that_overrides_the_env_file(
    monkeypatch, tmp_path
) -> None:
    (tmp_path / ".env").write_text("RESNEXT_MODEL=file\nRESNEXT_LOADERS=7\n")
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")
    assert load_settings().model == "file"
    monkeypatch.setenv("RESNEXT_MODEL", "environment")
    assert load_settings().model == "environment"
    assert load_settings(model="option").model == "option"
    assert load_settings(model=None).model == "environment"
    assert load_settings().loaders == 7


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().loaders = 3


def test_home_and_cache_follow_the_xdg_standard(monkeypatch) -> None:
    monkeypatch.delenv("RESNEXT_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert load_settings().home == Path("/home/someone/.local/share/resnext-queue")
    assert load_settings().cache == Path("/home/someone/.cache/resnext-queue")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert load_settings().home == Path("/data/resnext-queue")
    assert load_settings().cache == Path("/cache/resnext-queue")


def test_without_urls_both_servers_are_the_embedded_ones(tmp_path) -> None:
    settings = Settings(home=tmp_path)
    settings.broker_url_file.write_text("redis://left-by-up\n")
    assert settings.broker() == "redis://left-by-up"
    assert settings.database() == f"sqlite:///{tmp_path}/resnext.db"


def test_without_a_broker_the_message_says_how_to_get_one(tmp_path) -> None:
    with pytest.raises(UnavailableError, match="resnextq up") as missing:
        Settings(home=tmp_path / "nothing").broker()
    assert "RESNEXT_BROKER_URL" in str(missing.value)
    assert str(tmp_path / "nothing") in str(missing.value)


def test_postgresql_uses_the_installed_driver() -> None:
    settings = Settings(database_url="postgresql://me@host/images")
    assert settings.database() == "postgresql+psycopg://me@host/images"


@pytest.mark.parametrize(
    "value", ["s3.example:9000", "ftp://a.example", "http://", "http://a:hunter2@c"]
)
def test_an_endpoint_must_be_a_web_server_without_a_password(monkeypatch, value) -> None:
    message = refusal(monkeypatch, RESNEXT_S3_ENDPOINT=value)
    assert "RESNEXT_S3_ENDPOINT" in message
    assert "hunter2" not in message


def test_an_unknown_object_store_is_refused(monkeypatch) -> None:
    assert "RESNEXT_OBJECT_STORES" in refusal(monkeypatch, RESNEXT_OBJECT_STORES="s3,ftp")


def test_a_worker_has_no_more_loaders_than_it_has_cores(monkeypatch) -> None:
    """The machine may have more cores than the process may use."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert load_settings().loaders == 1


def test_uploaded_files_may_be_read(tmp_path: Path) -> None:
    """The folder for uploads is among the file roots exactly once, even if its name has a comma."""
    folder, other = tmp_path / "a,b", tmp_path / "c"
    assert Settings(uploads=str(folder)).file_roots == (folder,)
    assert Settings(uploads=f"{folder}/", file_roots=(other, folder)).file_roots == (other, folder)
    assert Settings(uploads="s3://bucket/a", file_roots=(other,)).file_roots == (other,)
    assert Settings(uploads="s3://bucket/a").uploads == "s3://bucket/a/"
