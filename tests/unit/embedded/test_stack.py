"""Parts of `up` without starting it: signals, ports, and the program beside the interpreter."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from contract.errors import UnavailableError, UsageError
from contract.settings import Settings
from tests.wait import until
from worker.embedded import service, stack, valkey
from worker.embedded.files import locked
from worker.embedded.model import Choice
from worker.embedded.service import Service
from worker.embedded.stack import Stack, run_stack
from worker.embedded.valkey import Valkey


@pytest.fixture
def signals() -> Iterator[None]:
    """Restores the signal handlers after the test."""
    before = {number: signal.getsignal(number) for number in stack.STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize("ignored", [True, False])
def test_up_keeps_a_hangup_ignored_under_nohup(tmp_path: Path, *, ignored: bool) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    settings = Settings(home=tmp_path, broker_url="redis://127.0.0.1:9/0")
    Stack(settings, Choice(settings, "")).hear_signals()
    assert (signal.getsignal(signal.SIGHUP) is signal.SIG_IGN) == ignored
    assert callable(signal.getsignal(signal.SIGTERM))


def test_a_metrics_port_needs_two_more_ports_above_it(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, broker_url="redis://127.0.0.1:9/0", metrics_port=65_534)
    with pytest.raises(UsageError, match=r"is 65534.* at most 65533"):
        Stack(settings, Choice(settings, ""))


def test_the_dashboard_gets_a_free_port_if_its_default_port_is_taken() -> None:
    port = Settings().flower_port
    with ExitStack() as taken:
        with suppress(OSError):  # another program has it already
            taken.enter_context(socket.create_server(("127.0.0.1", port)))
        assert stack.free_flower_port(Settings()) == {"RESNEXT_FLOWER_PORT": "0"}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        chosen = Settings(flower_port=taken.getsockname()[1])
        assert stack.free_flower_port(chosen) == {}, "a port that is set stays"


def test_a_port_that_was_taken_is_named() -> None:
    url = "http://127.0.0.1:41234"
    assert stack.with_taken_port(url, 8080) == f"{url}  (port 8080 is taken)"
    assert stack.with_taken_port(url, 41234) == stack.with_taken_port(url, 0) == url


@pytest.mark.usefixtures("signals")
def test_a_home_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "logs").touch()
    with pytest.raises(UnavailableError, match=r"RESNEXT_HOME is .*home, which cannot be used: F"):
        run_stack(Settings(home=tmp_path / "home", weights="random"))


def test_an_earlier_valkey_that_does_not_end_is_reported(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(valkey, "STOP_WITHIN_S", 0.1)
    server = Valkey(tmp_path)
    with (
        locked(tmp_path / "valkey.lock"),
        pytest.raises(UnavailableError, match="An earlier Valkey still runs in"),
    ):
        server.start()


def test_commands_start_without_the_program_beside_the_interpreter(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(service, "RESNEXTQ", tmp_path / "not-there")
    started = Service("dispatch", tmp_path, "--help", stop_within_s=10)
    started.start()
    until(lambda: not started.runs, started.tail)
    assert (started.has_ended(), "Usage: resnextq dispatch" in started.log.read_text()) == (0, True)


@pytest.mark.parametrize("name", ['a"b', "a b", "a\\b", "100%?"])
def test_the_home_of_a_broker_may_have_any_name(tmp_path: Path, name: str) -> None:
    server = Valkey(tmp_path / name)
    server.start()
    try:
        with server.client() as client:
            (folder,) = client.config_get("dir").values()
        assert folder in {str(tmp_path / name), bytes(tmp_path / name)}
    finally:
        server.stop()
