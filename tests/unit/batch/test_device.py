"""The workers of a machine share out its GPUs before CUDA starts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from resnext.errors import DeviceError
from resnext.run import nvidia, nvml
from resnext.run.nvidia import Gpu, list_gpus
from tests.doubles.nvml import build_nvml
from worker.batch.device import Device, choose_device, hold_first_free

CHOOSE = """
import os, sys
from pathlib import Path
from worker.batch.device import choose_device
chosen = choose_device(sys.argv[2], Path(sys.argv[1]))
assert "torch" not in sys.modules
print(chosen.device, chosen.name, os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
sys.stdin.read()
"""
TWO = "GPU-a,NVIDIA H200,0;GPU-b,NVIDIA H200,0"
DIVIDED = "GPU-a,NVIDIA H200,0,MIG-1,-,MIG-2;GPU-b,NVIDIA H200,0"
needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler for the double")


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_nvml(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def driver(library: Path, monkeypatch) -> pytest.MonkeyPatch:
    """A driver in this process; NVML_DOUBLE holds its answers."""
    show_all(monkeypatch)
    monkeypatch.setattr(nvml, "LIBRARY", str(library))
    monkeypatch.setenv("NVML_DOUBLE", TWO)
    return monkeypatch


def show_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shows all GPUs, and undoes what the tested code sets."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "all")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")


def start(
    library: Path, folder: Path, asked: str = "auto", **environment: str
) -> tuple[subprocess.Popen[str], list[str]]:
    """Starts a worker's process.

    Returns it with its device, the device's name, and the GPU that CUDA sees.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", CHOOSE, str(folder), asked],
        env=os.environ | {"LD_LIBRARY_PATH": str(library.parent)} | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return process, process.stdout.readline().split()


@needs_gcc
def test_each_worker_gets_its_own_gpu_and_an_ended_worker_frees_one(library, tmp_path) -> None:
    first, got_first = start(library, tmp_path, NVML_DOUBLE=TWO)
    second, got_second = start(library, tmp_path, NVML_DOUBLE=TWO)
    third, got_third = start(library, tmp_path, NVML_DOUBLE=TWO)
    assert got_first == got_third == ["auto", "cuda:0", "GPU-a"]
    assert got_second == ["auto", "cuda:1", "GPU-b"]
    said = third.communicate()[1]
    assert "Each of 2 GPUs already has a worker. This one shares GPU-a." in said
    second.kill()
    second.communicate()
    fourth, got_fourth = start(library, tmp_path, NVML_DOUBLE=TWO)
    assert got_fourth == got_second
    for process in (first, fourth):
        process.communicate()


@needs_gcc
def test_mig_instances_count_as_gpus(library, tmp_path) -> None:
    processes, got = zip(
        *(start(library, tmp_path, NVML_DOUBLE=DIVIDED) for _ in range(3)), strict=True
    )
    assert [words[2] for words in got] == ["MIG-1", "MIG-2", "GPU-b"]
    assert [words[1] for words in got] == ["cuda:0", "cuda:1", "cuda:2"]
    for process in processes:
        process.communicate()


@needs_gcc
def test_cuda_sees_only_the_gpu_that_is_named(driver, tmp_path) -> None:
    assert choose_device("cuda:1", tmp_path) == Device("cuda:0", "cuda:1")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-b"
    assert [path.name for path in (tmp_path / "gpus").iterdir()] == ["GPU-b.lock"]


@needs_gcc
@pytest.mark.parametrize("asked", ["cpu", "cuda:2", "cuda:x", "gpu"])
def test_a_device_that_is_not_one_of_the_gpus_is_left_to_the_classifier(
    driver, tmp_path, asked
) -> None:
    assert choose_device(asked, tmp_path) == Device(asked)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert list(tmp_path.iterdir()) == []


@needs_gcc
@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ("1", ["GPU-b"]),
        ("1,0", ["GPU-b", "MIG-1", "MIG-2"]),
        ("MIG-2", ["MIG-2"]),
        ("GPU-b,GPU-x,GPU-a", ["GPU-b"]),
        ("", []),
        ("-1", []),
        ("7", []),
    ],
)
def test_gpus_are_chosen_from_those_that_cuda_is_shown(driver, shown, expected) -> None:
    driver.setenv("NVML_DOUBLE", DIVIDED)
    driver.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert [gpu.uuid for gpu in list_gpus()] == expected


@needs_gcc
def test_gpus_that_may_not_compute_are_left_out(driver) -> None:
    driver.setenv("NVML_DOUBLE", "GPU-a,NVIDIA H200,2;GPU-b,NVIDIA H200,3;GPU-c,T4,0,")
    assert [(gpu.uuid, gpu.number, gpu.exclusive) for gpu in list_gpus()] == [("GPU-b", 1, True)]


def gpu(uuid: str, *, exclusive: bool = False) -> Gpu:
    return Gpu(uuid=uuid, number=0, name="", whole=uuid, exclusive=exclusive)


def test_an_exclusive_gpu_is_not_shared(tmp_path, caplog) -> None:
    alone, open_ = gpu("GPU-a", exclusive=True), gpu("GPU-b")
    assert [hold_first_free([alone, open_], tmp_path) for _ in range(3)] == [0, 1, 1]
    with pytest.raises(DeviceError, match="EXCLUSIVE_PROCESS"):
        hold_first_free([alone], tmp_path)


def test_without_the_drivers_library_gpus_are_counted_by_their_device_files(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(nvml, "LIBRARY", "there-is-none.so")
    monkeypatch.setattr(nvidia, "_DEVICES", tmp_path)
    show_all(monkeypatch)
    for name in ("nvidia1", "nvidia0", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert choose_device("auto", tmp_path / "cache") == Device("auto", "cuda:0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert choose_device("auto", tmp_path / "cache") == Device("auto", "cuda:1")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"


def test_a_machine_without_a_gpu_needs_no_choice(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(nvml, "LIBRARY", "there-is-none.so")
    monkeypatch.setattr(nvidia, "_DEVICES", tmp_path)
    assert choose_device("auto", tmp_path / "cache") == Device("auto")


@pytest.mark.parametrize("make", [Path.symlink_to, Path.hardlink_to])
def test_a_lock_that_is_a_link_is_refused_with_what_to_do(tmp_path, make) -> None:
    target = tmp_path / "of somebody else"
    target.touch()
    (tmp_path / "gpus").mkdir()
    link = tmp_path / "gpus" / "GPU-a.lock"
    make(link, target)
    with pytest.raises(DeviceError, match=rf"{link}.* is a (hard )?link.*remove it"):
        hold_first_free([gpu("GPU-a")], tmp_path / "gpus")


def test_only_its_owner_can_open_a_lock(tmp_path) -> None:
    """Anyone who can open the lock can hold it. The GPU would then seem taken for ever."""
    assert hold_first_free([gpu("GPU-a")], tmp_path) == 0
    assert (tmp_path / "GPU-a.lock").stat().st_mode & 0o777 == 0o600
