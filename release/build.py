"""Builds a release: sdist and wheel of resnext-queue and of its client.

    python release/build.py FOLDER

Each is built twice, in two folders and at two times. Both builds must be the same, byte for byte,
so that everyone can check a release by building it. The wheel is built from the unpacked sdist,
which proves that the sdist is complete. The time in the archives is `SOURCE_DATE_EPOCH`, by default
the commit's time.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Final

ROOT = Path(__file__).parents[1]
CLIENT = ROOT / "client"
BUILD: Final = "import sys; from setuptools import build_meta as b; print(b.build_{}(sys.argv[1]))"
EXECUTABLE: Final = 0o100


def main(target: str) -> int:
    folder = Path(target)
    folder.mkdir(parents=True, exist_ok=True)
    for there in [*folder.glob("*.whl"), *folder.glob("*.tar.gz")]:
        there.unlink()
    for source in (ROOT, CLIENT):
        for name, content in built_twice(source, epoch()).items():
            (folder / name).write_bytes(content)
            print(f"{name}: two builds are identical, {len(content):,} bytes")
    return 0


def epoch() -> int:
    """The time in the archives, in seconds since 1970."""
    told = os.environ.get("SOURCE_DATE_EPOCH")
    return int(told or _run(["git", "log", "-1", "--format=%ct"], ROOT, {}))


def built_twice(source: Path, seconds: int) -> dict[str, bytes]:
    """Builds twice and compares; returns sdist and wheel by name.

    Raises:
        SystemExit: the two builds differ.
    """
    first, second = build(source, seconds), build(source, seconds)
    differ = [name for name in first.keys() | second.keys() if first.get(name) != second.get(name)]
    if differ:
        raise SystemExit(f"The two builds differ in {', '.join(sorted(differ))}; release aborted.")
    return first


def build(source: Path, seconds: int) -> dict[str, bytes]:
    """Builds once, in a new folder, from the files that git tracks."""
    variables = {"SOURCE_DATE_EPOCH": str(seconds)}
    with tempfile.TemporaryDirectory() as temporary:
        copy, unpacked, out = (Path(temporary) / name for name in ("copy", "unpacked", "out"))
        out.mkdir()
        for name in _run(["git", "ls-files"], source, {}).splitlines():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, copy / name)
        sdist = out / _build("sdist", copy, out, variables)
        repack(sdist, seconds)
        with tarfile.open(sdist) as archive:
            archive.extractall(unpacked, filter="data")
        (inside,) = unpacked.iterdir()
        wheel = out / _build("wheel", inside, out, variables)
        return {path.name: path.read_bytes() for path in (sdist, wheel)}


def _build(kind: str, source: Path, out: Path, variables: dict[str, str]) -> str:
    """Runs setuptools; returns the name of the file it made, which is the last line it prints."""
    said = _run([sys.executable, "-c", BUILD.format(kind), str(out)], source, variables)
    return said.splitlines()[-1]


def repack(sdist: Path, seconds: int) -> None:
    """Removes what differs between builds: order, times, users and permissions."""
    packed = io.BytesIO()
    with (
        tarfile.open(sdist) as before,
        gzip.GzipFile("", "wb", fileobj=packed, mtime=seconds) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as after,
    ):
        for entry in sorted(before.getmembers(), key=lambda one: one.name):
            entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = seconds, 0, 0, "", ""
            entry.mode = 0o755 if entry.isdir() or entry.mode & EXECUTABLE else 0o644
            entry.pax_headers = {}
            after.addfile(entry, before.extractfile(entry) if entry.isfile() else None)
    sdist.write_bytes(packed.getvalue())


def _run(command: list[str], folder: Path, variables: dict[str, str]) -> str:
    done = subprocess.run(
        command, cwd=folder, env=os.environ | variables, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
