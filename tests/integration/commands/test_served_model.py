"""The model that `up` serves with and without a download, and that `submit` then uses."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path

import pytest

from contract.served import model_of_up, note_served, with_served
from contract.settings import Settings
from resnext.errors import UnreachableWeights
from resnext.spec.catalogue import BUNDLED, find_spec
from resnext.spec.model import PublishedWeights
from resnext.weights.download import check_available
from tests.servers.publisher import publishing
from worker.embedded.model import choose_model


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a proxy that refuses connections. Loopback is reached without it."""
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def test_without_a_download_the_bundled_model_is_served(tmp_path: Path) -> None:
    settings, note = choose_model(Settings(cache=tmp_path))
    assert (settings.model, settings.weights) == (BUNDLED, find_spec(BUNDLED).weights_names[0])
    assert BUNDLED in note
    assert "api.ngc.nvidia.com" in note


def test_weights_in_the_cache_need_no_network(tmp_path: Path) -> None:
    given = Settings(cache=tmp_path)
    file = find_spec(given.model).weights[given.weights]
    assert isinstance(file, PublishedWeights)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / file.file_name).touch()
    assert choose_model(given) == (given, "")


@pytest.mark.parametrize("chosen", [{"model": "resnext101_32x4d"}, {"weights": "nvidia"}])
def test_the_users_settings_stay(tmp_path: Path, chosen: dict[str, str]) -> None:
    given = Settings(cache=tmp_path, **chosen)
    assert choose_model(given) == (given, "")


def test_weights_are_available_if_their_server_offers_them(tmp_path: Path) -> None:
    with publishing() as published:
        check_available(published.file(), tmp_path)
        assert published.ranges == [None]
        file = published.file()
        published.status = 404
        with pytest.raises(UnreachableWeights, match="status 404"):
            check_available(file, tmp_path)
    with pytest.raises(UnreachableWeights, match="cannot be reached: Connection refused"):
        check_available(file, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_never_answers_times_out(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/weights.pth"
        with pytest.raises(UnreachableWeights, match="timed out"):
            check_available(PublishedWeights(address=address, licence="none"), tmp_path)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home of an `up` that serves the bundled model in fp32."""
    note_served(Settings(home=tmp_path, model=BUNDLED, precision="fp32"))
    return tmp_path


def test_submit_uses_the_model_that_up_serves(home: Path) -> None:
    found = with_served(Settings(home=home))
    assert (found.model, found.weights, found.precision) == (BUNDLED, "bundled", "fp32")
    assert with_served(Settings(home=home, precision="amp")).precision == "amp"


def test_submit_permits_what_the_worker_of_up_may_read(tmp_path: Path) -> None:
    permitted = {"file_roots": (tmp_path / "a b", tmp_path), "fetch_ports": (80, 8080),
                 "object_stores": ("s3",)}  # fmt: skip
    note_served(Settings(home=tmp_path, **permitted))
    for model in ({}, {"model": BUNDLED}):
        found = with_served(Settings(home=tmp_path, **model))
        assert {name: getattr(found, name) for name in permitted} == permitted
    own = with_served(Settings(home=tmp_path, file_roots=(Path("/own"),), fetch_ports=()))
    assert (own.file_roots, own.fetch_ports) == ((Path("/own"),), ())
    assert own.object_stores == ("s3",)


def test_up_is_known_while_it_runs(home: Path) -> None:
    settings = Settings(home=home)
    assert model_of_up(settings) == (BUNDLED, "bundled", "fp32")
    ended = subprocess.Popen(["true"])
    ended.wait()
    kept = json.loads(settings.served_file.read_text()) | {"pid": ended.pid}
    settings.served_file.write_text(json.dumps(kept))
    assert model_of_up(settings) is None
    assert model_of_up(Settings(home=home / "other")) is None


@pytest.mark.parametrize(
    "chosen",
    [{"model": "resnext50_32x4d"}, {"weights": "random"}, {"database_url": "sqlite:////other.db"}],
)
def test_a_chosen_model_or_another_database_takes_precedence(
    home: Path, chosen: dict[str, str]
) -> None:
    given = Settings(home=home, **chosen)
    assert with_served(given) == given


@pytest.mark.parametrize("content", ["", "[]", "{}", "\xff", '{"model": "other"}'])
def test_a_bad_file_in_the_home_changes_nothing(home: Path, content: str) -> None:
    given = Settings(home=home)
    given.served_file.write_text(content, encoding="latin-1")
    assert with_served(given) == given
