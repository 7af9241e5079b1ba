"""What is installed: pinned and hashed requirements, and a wheel that forgets no file."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.pictures.sanitized import find_compiler

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))


def entries(lock: Path) -> list[str]:
    """Each requirement with its options, on one line."""
    lines = lock.read_text().replace("\\\n", "").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def pins(name: str) -> dict[str, set[str]]:
    """Versions by package: more than one where they depend on the Python or the platform."""
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
def test_no_requirement_says_where_it_comes_from(lock) -> None:
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
def test_the_pins_are_what_the_project_asks_for(lock, extras) -> None:
    pinned = pins(lock)
    for requirement in wanted(*extras):
        for version in pinned[canonicalize_name(requirement.name)]:
            assert requirement.specifier.contains(version), f"{requirement}: {version}"


@pytest.mark.parametrize(("lock", "group"), [("dev", "dev"), ("bench", "dev"), ("bench", "bench")])
def test_the_pins_for_development_are_what_the_project_asks_for(lock, group) -> None:
    pinned = pins(lock)
    for text in PROJECT["dependency-groups"][group]:
        requirement = Requirement(text)
        for version in pinned[canonicalize_name(requirement.name)]:
            assert requirement.specifier.contains(version), f"{requirement}: {version}"


def test_all_machines_get_the_same_versions() -> None:
    producer, worker, dev, bench = map(pins, ("producer", "worker", "dev", "bench"))
    assert {name: worker[name] for name in producer} == producer
    assert {name: dev[name] for name in worker} == worker
    assert {name: bench[name] for name in dev} == dev


def test_a_producer_installs_no_torch_and_no_images() -> None:
    assert set(pins("producer")) & {"torch", "torchvision", "numpy", "pillow", "flower"} == set()


def test_the_version_is_the_same_everywhere() -> None:
    from contract import VERSION

    assert PROJECT["project"]["version"] == VERSION


NOT_PACKED = {"benchmarks", "tests"}


def package_files() -> set[str]:
    """All files in the packages' folders, whether the project lists them or not."""
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
    """Built of a copy of this project."""
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
    """The extension too, where there is a compiler."""
    names = wheel_of(tmp_path, CC=compiler or "cc").namelist()
    packed = {name for name in names if ".dist-info/" not in name}
    extension = {name for name in packed if name.endswith(".so")}
    built = {"resnext/picture/_resample.abi3.so"}
    assert extension == (built if compiler and Path(compiler).exists() else set())
    assert packed - extension == package_files()
    assert any(name.endswith("licenses/LICENSE") for name in names)
