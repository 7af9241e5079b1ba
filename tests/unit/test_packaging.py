"""What gets installed: requirements with pins and hashes, and a wheel with every file."""

from __future__ import annotations

import io
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from contract import VERSION
from tests.pictures.sanitized import find_compiler

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "client"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))


def entries(lock: Path) -> list[str]:
    """Returns each requirement with its options on one line."""
    lines = lock.read_text().replace("\\\n", "").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def pins(name: str) -> dict[str, set[str]]:
    """Returns versions by package; several if they depend on the Python version or the platform."""
    found: dict[str, set[str]] = {}
    for entry in entries(ROOT / "requirements" / f"{name}.txt"):
        package, version = re.match(r"([\w.-]+)==([^\s;]+)", entry).groups()
        found.setdefault(canonicalize_name(package), set()).add(version)
    return found


def wanted(*extras: str) -> list[Requirement]:
    project = PROJECT["project"]
    texts = [*project["dependencies"]]
    for extra in extras:
        texts += project["optional-dependencies"][extra]
    requirements = [Requirement(text) for text in texts]
    return [one for one in requirements if one.name != project["name"]]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_requirement_is_pinned_with_hashes(lock) -> None:
    assert entries(lock)
    for entry in entries(lock):
        assert re.match(r"[\w.-]+==[^\s;]+", entry), entry
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry), entry


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_no_requirement_names_an_index(lock) -> None:
    text = lock.read_text()
    assert "://" not in text
    assert "--index-url" not in text
    assert "--extra-index-url" not in text
    assert "--find-links" not in text


@pytest.mark.parametrize(
    ("lock", "extras"),
    [
        ("producer", ("api", "parquet")),
        ("worker", ("worker", "api", "flower", "embedded", "s3", "gcs")),
        ("dev", ("worker", "api", "flower", "embedded", "s3", "gcs", "export")),
        ("bench", ("worker", "api", "flower", "embedded", "s3", "gcs", "export")),
    ],
)
def test_the_pins_satisfy_the_projects_requirements(lock, extras) -> None:
    pinned = pins(lock)
    for requirement in wanted(*extras):
        for version in pinned[canonicalize_name(requirement.name)]:
            assert requirement.specifier.contains(version), f"{requirement}: {version}"


@pytest.mark.parametrize(("lock", "group"), [("dev", "dev"), ("bench", "dev"), ("bench", "bench")])
def test_the_pins_satisfy_the_development_requirements(lock, group) -> None:
    pinned = pins(lock)
    for text in PROJECT["dependency-groups"][group]:
        requirement = Requirement(text)
        for version in pinned[canonicalize_name(requirement.name)]:
            assert requirement.specifier.contains(version), f"{requirement}: {version}"


def test_all_installations_have_the_same_versions() -> None:
    producer, worker, dev, bench = map(pins, ("producer", "worker", "dev", "bench"))
    assert {name: worker[name] for name in producer} == producer
    assert {name: dev[name] for name in worker} == worker
    assert {name: bench[name] for name in dev} == dev


def test_a_producer_installs_neither_torch_nor_image_libraries() -> None:
    assert set(pins("producer")) & {"torch", "torchvision", "numpy", "pillow", "flower"} == set()


def test_the_version_comes_from_one_place() -> None:
    """The image's label and the Kubernetes tags have their own tests."""
    import resnextq

    client = tomllib.loads((CLIENT / "pyproject.toml").read_text())
    for project, attribute in (
        (PROJECT, "contract.VERSION"),
        (client, "resnextq.__version__"),
    ):
        assert project["project"]["dynamic"] == ["version"]
        assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": attribute}
    assert resnextq.__version__ == VERSION
    heading = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heading[1] == VERSION


def test_both_distributions_contain_the_licence() -> None:
    assert (CLIENT / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_the_licences_of_all_dependencies_are_listed() -> None:
    there = (ROOT / "docs" / "licences.md").read_text()
    made = runpy.run_path(str(ROOT / "release" / "licences.py"))["document"](there)
    assert made == there, "stale: run `make docs`"
    for name in {*pins("producer"), *pins("flower"), *pins("worker")}:
        assert f"| `{name}` |" in there


def test_two_builds_of_the_client_are_identical() -> None:
    """`make release` builds everything else in the same way."""
    made = runpy.run_path(str(ROOT / "release" / "build.py"))["built_twice"](CLIENT, 1_800_000_000)
    wheel, sdist = sorted(made, key=lambda name: name.endswith(".tar.gz"))
    assert (wheel, sdist) == (
        f"resnextq_client-{VERSION}-py3-none-any.whl",
        f"resnextq_client-{VERSION}.tar.gz",
    )
    names = zipfile.ZipFile(io.BytesIO(made[wheel])).namelist()
    assert "resnextq/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_builds_that_differ_are_not_released(tmp_path, monkeypatch) -> None:
    built = iter([{"a.whl": b"1", "a.tar.gz": b"2"}, {"a.whl": b"1", "a.tar.gz": b"3"}])
    build = runpy.run_path(str(ROOT / "release" / "build.py"))["built_twice"]
    monkeypatch.setitem(build.__globals__, "build", lambda *_: next(built))
    with pytest.raises(SystemExit, match=r"differ in a\.tar\.gz"):
        build(tmp_path, 0)


def test_every_package_is_typed() -> None:
    for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]:
        assert (ROOT / name.rstrip("*") / "py.typed").exists()


NOT_PACKED = {"benchmarks", "tests"}


def package_files() -> set[str]:
    """Returns all files in the packages' folders, whether or not the project lists them."""
    folders = [
        path.parent for path in ROOT.glob("*/__init__.py") if path.parent.name not in NOT_PACKED
    ]
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {
        path.relative_to(ROOT).as_posix()
        for path in paths
        if "__pycache__" not in path.parts and path.suffix != ".so"
    }


def wheel_of(source: Path, **environment: str) -> zipfile.ZipFile:
    """Builds a wheel from a copy of this project."""
    for name in (*package_files(), "pyproject.toml", "setup.py", "README.md", "LICENSE"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    program = "import sys; from setuptools import build_meta as b; b.build_wheel(sys.argv[1])"
    built = subprocess.run(
        [sys.executable, "-c", program, source],
        cwd=source,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = source.glob("*.whl")
    return zipfile.ZipFile(wheel)


@pytest.mark.parametrize("compiler", [find_compiler(), "/no/compiler"])
def test_the_wheel_holds_every_file_of_every_package(compiler, tmp_path) -> None:
    """This includes the extension if there is a compiler."""
    wheel = wheel_of(tmp_path, CC=compiler or "cc")
    assert Path(wheel.filename).name.startswith(f"resnext_queue-{VERSION}-")
    names = wheel.namelist()
    packed = {name for name in names if ".dist-info/" not in name}
    extension = {name for name in packed if name.endswith(".so")}
    built = {"resnext/picture/_resample.abi3.so"}
    assert extension == (built if compiler and Path(compiler).exists() else set())
    assert packed - extension == package_files()
    assert any(name.endswith("licenses/LICENSE") for name in names)


def planned(target: str, gpu: str) -> str:
    """What make would run for a target in a folder without an environment."""
    return subprocess.run(
        ["make", "--dry-run", "--always-make", target, f"GPU={gpu}"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_without_a_gpu_setup_leaves_out_only_what_is_pinned_for_one() -> None:
    plan = planned("setup", "no")
    (names,) = re.findall(r"printf '%s\\n' (.*) >", plan)
    assert set(names.split()) <= set(pins("dev"))
    (install,) = re.findall(r"uv pip install .*-r requirements/dev.txt", plan)
    assert "--require-hashes --excludes" in install
    assert "with it: make setup GPU=yes" in plan


@pytest.mark.parametrize(("target", "gpu"), [("setup", "yes"), ("test", "no"), ("lint", "no")])
def test_a_gpu_and_the_tests_get_everything_that_is_pinned(target, gpu) -> None:
    installs = re.findall(r"uv pip install .*-r requirements/dev.txt", planned(target, gpu))
    assert "--excludes" not in installs[-1]
    assert "--require-hashes" in installs[-1]
