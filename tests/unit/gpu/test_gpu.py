"""What depends on a GPU's size, age and driver: batches, compiling, and errors."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from resnext.errors import DeviceError
from resnext.run import compiler, engine, nvidia, nvml, precision
from resnext.run.compiler import find_compiler, keep_compiled_in, missing_for_compiling
from resnext.run.engine import choose_engine, compile_module
from resnext.run.gpu import choose_batch_images, memory_of
from resnext.run.precision import find_device
from tests.doubles.cuda import GIB, Cuda
from tests.doubles.nvml import build_nvml

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
T4 = Cuda(memory=15 * GIB, capability=(7, 5), multiprocessors=40)
L4 = Cuda(memory=22 * GIB, capability=(8, 9), multiprocessors=58)
H200 = Cuda()


# Batches


@pytest.mark.parametrize(
    ("memory", "images"), [(140, 256), (40, 256), (39, 128), (22, 128), (15, 64), (6, 32)]
)
def test_the_largest_batch_depends_on_the_devices_memory(memory, images, monkeypatch) -> None:
    Cuda(memory=memory * GIB).install(monkeypatch.setattr)
    assert choose_batch_images(GPU) == images


def test_on_a_cpu_a_batch_has_32_images() -> None:
    assert choose_batch_images(CPU) == 32


def test_a_gpus_memory_is_reported_by_kind_and_a_cpu_has_none(monkeypatch) -> None:
    H200.install(monkeypatch.setattr)
    assert memory_of(GPU) == {"allocated": 0, "reserved": 0, "total": 140 * GIB}
    assert memory_of(CPU) == {}


# Compiling


@pytest.mark.parametrize(("gpu", "chosen"), [(H200, "fastest"), (L4, "fastest"), (T4, "eager")])
def test_auto_also_compiles_on_gpus_that_triton_supports(gpu, chosen, monkeypatch) -> None:
    gpu.install(monkeypatch.setattr)
    monkeypatch.setattr(engine, "missing_for_compiling", lambda _: [])
    assert choose_engine("auto", GPU) == chosen
    assert choose_engine("compiled", GPU) == "compiled"


def test_auto_does_not_compile_if_something_is_missing(monkeypatch) -> None:
    H200.install(monkeypatch.setattr)
    monkeypatch.setattr(engine, "missing_for_compiling", lambda _: ["a C compiler"])
    assert choose_engine("auto", GPU) == "eager"


@pytest.mark.parametrize(("gpu", "tuned"), [(H200, True), (L4, False), (T4, False)])
def test_torch_tunes_for_large_gpus_and_leaves_graphs_to_us(gpu, tuned, monkeypatch) -> None:
    gpu.install(monkeypatch.setattr)
    asked = {}
    monkeypatch.setattr(torch, "compile", lambda module, **options: asked.update(options) or module)
    compile_module(torch.nn.Identity(), GPU)
    assert asked == {
        "dynamic": False,
        "options": {"freezing": True, "triton.cudagraphs": False, "max_autotune": tuned},
    }
    compile_module(torch.nn.Identity(), CPU)
    assert asked["options"] == {"freezing": True}


@pytest.fixture
def caches(tmp_path: Path, monkeypatch) -> Path:
    for name in (compiler.CACHE, compiler.TRITON_CACHE, "CC", "CXX"):
        monkeypatch.setenv(name, "set")
        monkeypatch.delenv(name)
    keep_compiled_in(tmp_path)
    return tmp_path


def test_compiled_code_is_kept_in_the_cache_unless_the_environment_sets_a_folder(
    tmp_path: Path, caches, monkeypatch
) -> None:
    assert os.environ[compiler.CACHE] == str(tmp_path / "inductor")
    assert os.environ[compiler.TRITON_CACHE] == str(tmp_path / "triton")
    keep_compiled_in(Path("/elsewhere"))
    assert os.environ[compiler.CACHE] == str(tmp_path / "inductor")


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler")
def test_on_a_complete_machine_nothing_is_missing(caches, monkeypatch) -> None:
    monkeypatch.setattr(compiler.sysconfig, "get_path", lambda _: str(caches))
    (caches / "Python.h").touch()
    assert missing_for_compiling("cuda") == []


def test_what_is_missing_is_named_with_what_to_do(caches, monkeypatch) -> None:
    nothing = caches / "nothing"
    nothing.mkdir()
    monkeypatch.setenv("PATH", str(nothing))
    monkeypatch.setattr(compiler.sysconfig, "get_path", lambda _: str(nothing))
    nowhere = Path(__file__) / "triton"
    monkeypatch.setenv(compiler.TRITON_CACHE, str(nowhere))
    assert missing_for_compiling("cuda") == [
        "a C compiler: install gcc",
        f"Python.h in {nothing}: install Python's headers (python3-dev)",
        f"{nowhere} cannot be written to: set TRITON_CACHE_DIR to another folder",
    ]
    assert missing_for_compiling("cpu")[0] == "a C++ compiler: install g++"


def test_a_folder_that_may_not_execute_files_counts_as_missing(caches, monkeypatch) -> None:
    """Docker mounts a tmpfs with noexec."""

    class Mount:
        f_flag = os.ST_NOEXEC

    monkeypatch.setattr(compiler.os, "statvfs", lambda _: Mount)
    assert (
        f"{caches}/inductor is mounted noexec: set TORCHINDUCTOR_CACHE_DIR to another folder"
        in (missing_for_compiling("cuda"))
    )


@pytest.mark.parametrize(("name", "found"), [("cc", False), ("c++", False), ("clang", True)])
def test_compilers_are_found_as_triton_finds_them(caches, monkeypatch, name, found) -> None:
    folder = caches / "bin"
    folder.mkdir()
    (folder / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(folder))
    assert (find_compiler("cuda") is not None) == found
    monkeypatch.setenv("CC", name)
    assert find_compiler("cuda") == str(folder / name)


# A GPU that torch cannot use


@pytest.fixture
def machine(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch) -> Path:
    """A machine with a GPU, a driver of 2023, and a torch that sees no GPU.

    Returns the machine's device folder.
    """
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler for the double")
    library = build_nvml(tmp_path_factory.mktemp("nvml"))
    monkeypatch.setattr(nvml, "LIBRARY", str(library))
    monkeypatch.setattr(nvidia, "_DEVICES", tmp_path)
    monkeypatch.setenv("NVML_DOUBLE", "GPU-a,NVIDIA A10,0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    return tmp_path


@pytest.mark.parametrize("asked", ["auto", "cuda", "cuda:0"])
def test_a_gpu_that_torch_cannot_use_is_an_error_that_names_the_driver(machine, asked) -> None:
    with pytest.raises(DeviceError) as caught:
        find_device(asked)
    said = str(caught.value)
    assert "The NVIDIA driver 535.54.03 has a GPU (NVIDIA A10)" in said
    assert "CUDA 13.2 needs driver 580 or newer" in said
    assert said.endswith("Update the driver, or choose cpu.")


def test_a_torch_without_cuda_is_reported_on_a_machine_with_a_gpu(machine, monkeypatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(DeviceError, match=r"built without CUDA\. Install a torch with CUDA"):
        find_device("auto")


def test_without_the_drivers_library_the_device_file_shows_the_gpu(machine, monkeypatch) -> None:
    monkeypatch.delenv("NVML_DOUBLE")
    (machine / "nvidia0").touch()
    with pytest.raises(DeviceError, match=f"There is {machine}/nvidia0, but torch"):
        find_device("auto")


@pytest.mark.parametrize("shown", ["", "-1", "NoDevFiles"])
def test_a_user_who_hides_the_gpus_gets_the_cpu(machine, monkeypatch, shown) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert find_device("auto") == CPU


def test_a_user_who_asks_for_the_cpu_gets_it(machine) -> None:
    assert find_device("cpu") == CPU


def test_without_a_gpu_auto_is_the_cpu(machine, monkeypatch) -> None:
    monkeypatch.setenv("NVML_DOUBLE", "")
    assert find_device("auto") == CPU


def test_the_first_gpu_is_taken_if_torch_sees_one(monkeypatch) -> None:
    Cuda().install(monkeypatch.setattr)
    assert find_device("auto") == find_device("cuda") == GPU
    assert precision.choose_precision("amp", GPU) == "fp16"
