"""`resnextq doctor`: its checks of servers, settings, models and files."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, update

from contract import VERSION
from contract.check import Check, guarded
from contract.database.clock import db_now
from contract.database.schema import NEWEST_SCHEMA
from contract.database.tables import leaders
from contract.settings import Settings
from producer.dispatcher.leader import Leadership
from producer.doctor import _ports, _private_addresses, check_servers, line
from tests.doubles import cudnn
from tests.doubles.cuda import GIB, Cuda
from tests.integration.dispatching import (
    QUEUE,
    WITHIN_S,
    add_worker,
    change_chunks,
    change_worker,
    on_broker,
    submit_chunks,
)
from worker.commands.doctor import check_model
from worker.loader.sandbox.protections import Protections
from worker.pool.limits import Limit

RESNEXTQ = Path(sys.executable).with_name("resnextq")
TORCHVISION = "resnext50_32x4d-1a0047aa.pth"


def by_name(checks: Iterable[Check]) -> dict[str, Check]:
    """The last check of each name."""
    return {check.name: check for check in checks}


def weights(checks: Iterable[Check], title: str) -> Check:
    """The check of these weights."""
    (found,) = [check for check in checks if check.found.startswith((f"{title}:", f"{title},"))]
    assert found.name == "weights"
    return found


@pytest.fixture
def leader(engine: Engine) -> Leadership:
    leadership = Leadership()
    assert leadership.ask(engine)
    return leadership


def test_a_working_installation_has_no_failures(
    settings: Settings, engine: Engine, leader: Leadership
) -> None:
    add_worker(engine, "w1", images_per_s=12.5)
    change_worker(engine, "w1", version=VERSION)
    found = by_name(check_servers(settings.model_copy(update={"api_port": 0})))
    # The free space of the test machine does not matter.
    assert {check for check in found.values() if check.state != "ok" and check.name != "space"} == (
        set()
    )
    assert list(found) == [
        *("version", "settings", "home", "space", "descriptors"),
        *("broker", "broker memory", "broker restart", "database", "workers", "worker"),
        *("unserved jobs", "versions", "clock", "dispatcher", "api", "open addresses"),
        *("private addresses", "ports", "file folders"),
    ]
    assert "Valkey" in found["broker"].found
    assert found["broker memory"].found == "maxmemory-policy noeviction"
    assert f"schema is {NEWEST_SCHEMA:04}" in found["database"].found
    assert found["workers"].found == f"1 on {QUEUE}, the queue of new jobs"
    assert "w1" in found["worker"].found
    assert "12.5 images/s" in found["worker"].found


def test_no_secret_is_shown(settings: Settings) -> None:
    secret = {"flower_login": "me:hunter2", "broker_url": "redis://:hunter2@127.0.0.1:9/0"}
    values = settings.model_dump() | secret
    shown = "\n".join(map(line, check_servers(Settings(**values))))
    assert "hunter2" not in shown
    assert "RESNEXT_FLOWER_LOGIN=(hidden)" in shown


def test_a_stopped_broker_is_reported_and_other_checks_go_on(settings: Settings) -> None:
    found = by_name(check_servers(on_broker(settings, "redis://127.0.0.1:9/0")))
    assert found["broker"].state == "failure"
    assert "127.0.0.1:9" in found["broker"].found
    assert found["broker"].advice == "Start it, or correct RESNEXT_BROKER_URL."
    assert found["database"].state == "ok"


def test_a_broker_that_never_answers_delays_no_other_check(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        found = by_name(check_servers(on_broker(settings, f"redis://127.0.0.1:{port}/0")))
    assert found["broker"].state == "failure"
    assert found["database"].state == "ok"


def test_a_broker_that_may_drop_messages_is_a_warning(settings: Settings, mortal_valkey) -> None:
    with mortal_valkey.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    found = by_name(check_servers(on_broker(settings, mortal_valkey.url)))
    assert found["broker memory"].state == "warning"
    assert "allkeys-lru" in found["broker memory"].found
    assert "append-only file on" in found["broker restart"].found


@pytest.mark.parametrize(
    ("url", "words", "advice"),
    [
        ("postgresql://me:hunter2@127.0.0.1:9/no", "127.0.0.1:9/no", "Start it"),
        ("sqlite:////nowhere/x.db", "There is no database at /nowhere/x.db", "db upgrade"),
        (f"sqlite:///{__file__}", "not a database", "RESNEXT_DATABASE_URL"),
        ("sqlite:///{folder}/empty.db", "no schema yet", "db upgrade"),
    ],
)
def test_a_bad_database_is_reported_and_other_checks_go_on(
    broker_url: str, tmp_path: Path, url: str, words: str, advice: str
) -> None:
    (tmp_path / "empty.db").touch()
    settings = Settings(broker_url=broker_url, database_url=url.format(folder=tmp_path))
    found = by_name(check_servers(settings))
    assert found["database"].state == "failure"
    assert words in found["database"].found
    assert advice in found["database"].advice
    assert found["broker"].state == "ok"


def test_a_queue_without_workers_is_a_warning(settings: Settings, engine: Engine) -> None:
    add_worker(engine, "dead", age_s=3600.0)
    add_worker(engine, "other", queue="resnext50_32x4d.random.fp32")
    found = by_name(check_servers(settings))
    assert found["workers"].state == "warning"
    assert "the workers serve resnext50_32x4d.random.fp32" in found["workers"].found
    assert found["workers"].advice == ("Start one: RESNEXT_MODEL=resnext101_32x4d resnextq worker")
    assert "other" in found["worker"].found


def test_a_missing_dispatcher_is_a_warning(settings: Settings, engine: Engine) -> None:
    dispatcher = by_name(check_servers(settings))["dispatcher"]
    assert (dispatcher.state, dispatcher.found, dispatcher.advice) == (
        "warning",
        "none is running",
        "Start one with `resnextq dispatch`.",
    )
    change_chunks(engine, submit_chunks(engine, 2), due_at=db_now(-60.0))
    dispatcher = by_name(check_servers(settings))["dispatcher"]
    assert dispatcher.found == "none is running: 2 chunks are due, but none is queued"


def test_due_chunks_that_the_dispatcher_leaves_are_a_warning(
    settings: Settings, engine: Engine, leader: Leadership
) -> None:
    job = submit_chunks(engine, 2)
    dispatcher = by_name(check_servers(settings))["dispatcher"]
    assert dispatcher.state == "ok"
    assert f"{leader.name} leads" in dispatcher.found
    change_chunks(engine, job, due_at=db_now(-60.0))
    dispatcher = by_name(check_servers(settings))["dispatcher"]
    assert (dispatcher.state, dispatcher.advice) == ("warning", "Its log says why.")
    change_chunks(engine, job, 0, state="queued")
    assert by_name(check_servers(settings))["dispatcher"].state == "ok"


def test_a_dispatcher_with_a_long_interval_is_not_taken_for_dead(
    settings: Settings, engine: Engine, leader: Leadership
) -> None:
    with engine.begin() as connection:
        connection.execute(update(leaders).values(held_at=db_now(-60.0)))
    change_chunks(engine, submit_chunks(engine, 2), due_at=db_now(-60.0))
    assert by_name(check_servers(settings))["dispatcher"].found.startswith("none is running")
    seldom = settings.model_copy(update={"dispatch_interval_s": 30.0})
    assert by_name(check_servers(seldom))["dispatcher"].state == "ok"


def test_risky_folders_and_permissions_are_warnings(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o755)
    settings = Settings(
        home=tmp_path / "home",
        fetch_allow=("images.internal:80", "169.254.0.0/16"),
        file_roots=(tmp_path, tmp_path / "gone"),
    )
    found = by_name(check_servers(settings))
    assert (found["home"].state, "chmod 700" in found["home"].advice) == ("warning", True)
    assert "169.254.169.254" in found["private addresses"].advice
    assert found["ports"].found.startswith("images are fetched from every port")
    assert (found["file folders"].state, found["file folders"].found) == (
        "warning",
        f"{tmp_path / 'gone'} is not a folder here",
    )


@pytest.mark.parametrize(
    ("opened", "told"),
    [
        ("169.254.169.254:80", "169.254.169.254"),
        ("[fd00:ec2::254]:80", "fd00:ec2::254"),
        ("fd00::/8", "fd00:ec2::254"),
        ("168.63.129.16", "168.63.129.16"),
        ("192.0.0.0/24", "192.0.0.192"),
        ("100.64.0.0/10", "100.100.100.200"),
        ("0.0.0.0/0", "169.254.169.254"),
        ("::/0", "fd00:ec2::254"),
        ("*.internal", "metadata.google.internal"),
        (".google.internal:80", "metadata.google.internal"),
        ("metadata.google.internal", "metadata.google.internal"),
    ],
)
def test_allowing_a_clouds_metadata_address_is_a_warning(opened, told) -> None:
    settings = Settings(fetch_allow=("images.internal", opened), fetch_ports=(80, 443))
    check = _private_addresses(settings)
    assert (check.state, opened in check.found, told in check.advice) == ("warning", True, True)
    assert _ports(settings).found == "images are fetched from: 80, 443"


def test_an_allowed_address_on_a_closed_port_is_a_warning() -> None:
    settings = Settings(fetch_allow=("a.lan:8080", "b.lan:80"), fetch_ports=(80, 443))
    check = _private_addresses(settings)
    assert check.state == "warning"
    assert check.found.endswith("RESNEXT_FETCH_PORTS keeps a.lan:8080 closed")
    assert _private_addresses(Settings(fetch_allow=("*.lan:8080",))).state == "ok"


def test_the_warning_for_an_unknown_variable_names_the_nearest_setting(monkeypatch) -> None:
    monkeypatch.setenv("RESNEXT_WIEGHTS", "nvidia")
    warnings = [check for check in check_servers(Settings()) if check.state == "warning"]
    assert [check.advice for check in warnings if check.name == "settings"] == [
        "Did you mean RESNEXT_WEIGHTS?"
    ]


def test_a_check_that_hangs_times_out(request) -> None:

    over = threading.Event()
    request.addfinalizer(over.set)

    def hang() -> list[Check]:
        over.wait()
        return []

    (check,) = guarded("server", hang, within_s=0.05)
    assert (check.state, check.found) == ("failure", "no answer within 0 s")


def test_a_check_that_gets_no_thread_fails_without_a_traceback(monkeypatch) -> None:
    def start(_: object) -> None:
        raise RuntimeError("can't start new thread")  # as Python does

    monkeypatch.setattr(threading.Thread, "start", start)
    (check,) = guarded("server", list)
    assert (check.state, check.found) == ("failure", "not checked: can't start new thread")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with a damaged weights file."""
    (tmp_path / "cache/weights").mkdir(parents=True)
    (tmp_path / "cache/weights" / TORCHVISION).write_bytes(b"damaged")
    return tmp_path / "cache"


def test_every_known_model_is_listed_with_licence_and_hash(cache: Path) -> None:
    checks = list(check_model(Settings(cache=cache, device="cpu")))
    found = by_name(checks)
    assert "torch" in found["device"].found
    assert "amp means" in found["precision"].found
    assert found["engine"].found.startswith(("auto is eager here", "auto is openvino here"))
    assert "core" in found["torch threads"].found
    nvidia = weights(checks, "resnext101_32x4d/nvidia")
    assert (nvidia.state, ", in use: licence NVIDIA" in nvidia.found) == ("warning", True)
    assert nvidia.advice.startswith("The first use downloads it from https://api.ngc.nvidia.com/")
    facebook = weights(checks, "resnext101_32x4d.fb_swsl_ig1b_ft_in1k/timm")
    assert "not for commercial use" in facebook.found
    assert re.fullmatch(
        r"Pillow [\d.]+, which decodes JPEGs with libjpeg-turbo [\d.]+", found["decoders"].found
    )
    damaged = weights(checks, "resnext50_32x4d/torchvision")
    assert damaged.state == "warning"
    assert hashlib.sha256(b"damaged").hexdigest() in damaged.found
    assert "mismatch: the published SHA-256 is 1a0047aa" in damaged.found


def test_on_a_cpu_doctor_says_whether_openvino_is_installed(cache: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    engine = by_name(check_model(Settings(cache=cache, device="cpu")))["engine"]
    assert engine.state == "ok"
    assert engine.found.startswith("auto is eager here")
    assert engine.found.endswith(
        "OpenVINO, which is faster, is not installed: pip install '.[openvino]' in the project's "
        "folder"
    )
    asked = by_name(check_model(Settings(cache=cache, device="cpu", engine="openvino")))["engine"]
    assert asked.state == "failure"
    monkeypatch.undo()
    pytest.importorskip("openvino")
    engine = by_name(check_model(Settings(cache=cache, device="cpu")))["engine"]
    assert (engine.state, engine.advice) == ("ok", "")
    assert engine.found.startswith("auto is openvino here")


def test_doctor_lists_the_protections_of_loaders(tmp_path: Path, monkeypatch) -> None:
    settings = Settings(cache=tmp_path, device="cpu", object_stores="s3,gs")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setattr("worker.commands.doctor.version", lambda _: "12.3.0")
    monkeypatch.setattr(
        "worker.commands.doctor.find_out", lambda _: Protections(("a",), ("b", "c"))
    )
    found = by_name(check_model(settings))
    assert (found["decoders"].state, found["decoders"].found) == ("failure", "Pillow 12.3.0")
    assert "pillow>=13" in found["decoders"].advice
    assert found["sandbox"].state == "warning"
    assert found["sandbox"].found == "loaders can b or c; they cannot a"
    stores = found["object stores"].found
    assert "enables s3, gs; loaders get AWS_SECRET_ACCESS_KEY" in stores
    assert "hunter2" not in stores
    required = by_name(check_model(settings.model_copy(update={"sandbox": "required"})))
    assert required["sandbox"].state == "failure"


def test_doctor_reports_the_resampler_and_what_its_absence_costs(cache: Path, monkeypatch) -> None:
    pytest.importorskip("resnext.picture._resample")
    settings = Settings(cache=cache, device="cpu", decode="fast")
    found = by_name(check_model(settings))
    assert (found["resampler"].state, found["resampler"].found) == (
        "ok",
        "the extension in C resizes",
    )
    assert re.search(
        r"RESNEXT_DECODE=fast: torchvision \S+ decodes most JPEGs", found["decoders"].found
    )
    monkeypatch.setitem(sys.modules, "resnext.picture._resample", None)
    missing = by_name(check_model(settings))["resampler"]
    assert missing.state == "warning"
    assert "the extension in C is missing" in missing.found
    assert "Install a C compiler" in missing.advice


def test_a_limit_that_permits_fewer_fetches_is_reported(tmp_path: Path, monkeypatch) -> None:
    settings = Settings(cache=tmp_path, device="cpu", loaders=2)
    assert by_name(check_model(settings))["limits"].state == "ok"
    pids = Limit("pids.max in /a", 300, 20)
    monkeypatch.setattr("worker.pool.limits.limits_of_threads", lambda: iter([pids]))
    limits = by_name(check_model(settings))["limits"]
    assert limits.state == "warning"
    assert "pids.max in /a is 300, of which 20 are in use" in limits.found
    assert "RESNEXT_LOADERS" in limits.advice


def test_doctor_reports_how_a_worker_will_use_a_gpu(cache: Path, monkeypatch) -> None:
    Cuda().install(monkeypatch.setattr)
    monkeypatch.setattr("resnext.run.nvml.LIBRARY", "there-is-none.so")
    for variable in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(variable, f"{__file__}/nowhere")
    found = by_name(check_model(Settings(cache=cache)))
    assert found["device"].found.startswith(
        "cuda:0 (NVIDIA Double, 140 GiB, compute capability 9.0, driver unknown), torch"
    )
    assert found["batch"].found == "256 images, chosen for this device"
    assert found["engine"].state == "warning"
    assert found["engine"].found.startswith("auto is eager here")
    assert "set TORCHINDUCTOR_CACHE_DIR to another folder" in found["engine"].advice
    assert "layers" in found
    asked = by_name(check_model(Settings(cache=cache, engine="compiled", batch_images=8)))
    assert "layers" not in asked
    assert asked["engine"].advice.startswith("It will run uncompiled. Missing: ")
    assert asked["batch"].found == "8 images, as set in RESNEXT_BATCH_IMAGES"


def test_measured_layers_are_reported(cache: Path, monkeypatch) -> None:
    cuda = Cuda()
    cuda.install(monkeypatch.setattr)
    cudnn.install(monkeypatch.setattr, spend=cuda.spend)
    monkeypatch.setattr("resnext.run.nvml.LIBRARY", "there-is-none.so")
    monkeypatch.setattr("resnext.run.layers.timer._RUNS", 1)
    settings = Settings(cache=cache, model="resnext_tiny_imagenet", batch_images=2)

    def layers(*, measure: bool = False) -> list[Check]:
        return [one for one in check_model(settings, measure=measure) if one.name == "layers"]

    before = layers()
    assert [check.found.split(" are")[0] for check in before[:2]] == [
        "batches of 2",
        "batches of 1",
    ]
    assert all("are not measured yet" in check.found for check in before[:2])
    assert before[0].advice == "To measure them now: resnextq doctor --device"

    measured = layers(measure=True)
    after = layers()
    assert [check.state for check in measured] == ["ok"] * len(measured)
    assert re.search(
        r"batches of 2: 35 layers, [0-9.]+ ms in all: cudnn 31, matrix 4", after[0].found
    )
    told = measured[1].found
    assert told.startswith("1 x 3x3, 3 to 32 channels, stride 2, 64x64, relu: cudnn 1.000 ms (")
    assert "passes 4.000 ms" in told
    assert len(after) == 3
    assert str(cache) in after[-1].found


def test_on_a_cpu_there_is_nothing_to_measure(cache: Path) -> None:
    settings = Settings(cache=cache, device="cpu")
    assert "layers" not in by_name(check_model(settings))
    found = by_name(check_model(settings, measure=True))["layers"]
    assert (found.state, found.found[:27]) == ("ok", "nothing to measure on a CPU")


def test_a_gpu_that_is_too_old_for_compiling_is_no_failure(cache: Path, monkeypatch) -> None:
    Cuda(memory=15 * GIB, capability=(7, 5)).install(monkeypatch.setattr)
    monkeypatch.setattr("worker.commands.doctor.missing_for_compiling", lambda _: [])
    engine = by_name(check_model(Settings(cache=cache)))["engine"]
    assert (engine.state, engine.advice) == ("ok", "")
    assert "the compute capability is 7.5, but Triton needs 8.0 or newer" in engine.found


def test_a_gpu_that_torch_cannot_use_is_a_failure(cache: Path, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("resnext.run.nvml.LIBRARY", "there-is-none.so")
    monkeypatch.setattr("resnext.run.nvidia._DEVICES", tmp_path)
    (tmp_path / "nvidia0").touch()
    device = by_name(check_model(Settings(cache=cache)))["device"]
    assert device.state == "failure"
    assert f"There is {tmp_path}/nvidia0, but torch" in device.found


def test_damaged_weights_in_use_are_a_failure(cache: Path) -> None:
    settings = Settings(cache=cache, device="cpu", model="resnext50_32x4d")
    check = weights(check_model(settings), "resnext50_32x4d/torchvision")
    assert (check.state, check.advice[:16]) == ("failure", "Delete the file.")
    assert list((cache / "weights").iterdir()) == [cache / "weights" / TORCHVISION]


def own(folder: Path, **said: Any) -> str:
    """A user's own model spec, and a weights file. The spec's `weights` may name another file."""
    (folder / "birds.pth").write_bytes(b"weights")
    fields = {"like": "resnext50_32x4d", "categories": ["wren", "tit"], "weights": "birds.pth"}
    (folder / "birds.json").write_text(json.dumps(fields | said))
    return str(folder / "birds.json")


@pytest.mark.parametrize(
    ("said", "state", "words"),
    [
        ({}, "ok", "unknown: there is no published hash to compare it with"),
        ({"sha256": hashlib.sha256(b"weights").hexdigest()}, "ok", "checked: as published"),
        ({"sha256": "abc"}, "failure", "mismatch: the published SHA-256 is abc"),
        ({"weights": "gone.pth"}, "failure", "gone.pth"),
        ({"licence": "MIT"}, "ok", "licence MIT"),
    ],
)
def test_a_users_own_spec_is_checked(tmp_path: Path, said, state, words) -> None:
    settings = Settings(model=own(tmp_path, **said), device="cpu", cache=tmp_path)
    check = weights(check_model(settings), "birds/own")
    assert check.state == state
    assert words in check.found


@pytest.mark.parametrize(
    ("values", "name", "words"),
    [
        ({"model": "resnet"}, "model", "There is no model 'resnet'"),
        ({"device": "cuda:99"}, "device", "'cuda:99' does not exist"),
    ],
)
def test_an_unknown_model_or_device_is_a_failure(
    tmp_path: Path, values, name: str, words: str
) -> None:
    settings = Settings(**{"device": "cpu", "cache": tmp_path} | values)
    check = by_name(check_model(settings))[name]
    assert check.state == "failure"
    assert words in check.found


def test_a_missing_file_in_use_is_a_failure(tmp_path: Path) -> None:
    settings = Settings(weights="/no/mine.pth", device="cpu", cache=tmp_path)
    check = weights(check_model(settings), "resnext101_32x4d/mine")
    assert check.state == "failure"
    assert check.found.endswith("/no/mine.pth does not exist")


def test_random_weights_in_use_are_a_warning(tmp_path: Path) -> None:
    settings = Settings(weights="random", device="cpu", cache=tmp_path)
    assert weights(check_model(settings), "resnext101_32x4d/random").state == "warning"


def run(*arguments: str, **values: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RESNEXTQ, "doctor", *arguments],
        env=os.environ | {f"RESNEXT_{name.upper()}": value for name, value in values.items()},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )


def test_the_command_prints_a_line_per_check_and_sets_its_exit_status(
    settings: Settings, tmp_path: Path
) -> None:
    values = {
        "broker_url": settings.broker(),
        "database_url": settings.database().replace("+psycopg", ""),
        "cache": str(tmp_path),
        "weights": "random",
    }
    done = run(**values)
    assert done.returncode == 0, done.stdout
    lines = [text.split("\t") for text in done.stdout.splitlines()]
    assert {len(cells) for cells in lines} == {3}
    assert {cells[0] for cells in lines} == {"ok", "warning"}

    done = run("--json", **values | {"broker_url": "redis://127.0.0.1:9/0"})
    assert done.returncode == 3, done.stdout
    checks = json.loads(done.stdout)
    assert {"check", "state", "found", "advice"} == set(checks[0])
    assert [check["check"] for check in checks if check["state"] == "failure"] == ["broker"]


def test_an_installation_without_torch_lists_the_skipped_checks() -> None:
    code = """
import sys
sys.modules["torch"] = None  # as if it were not installed
sys.argv = ["resnextq", "doctor"]
from producer.cli.main import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 3
    last = done.stdout.splitlines()[-1]
    assert last.startswith("ok\tmodel\tnot checked: torch is not installed here")
    assert done.stderr == ""
