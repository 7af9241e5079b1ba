"""A child process that decodes under a loader's limits, so that a fatal image ends only the child.

The parent gives it one image after another, and reads each outcome and the child's peak memory.
"""

from __future__ import annotations

import json
import resource
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from contract.settings import Settings
from resnext.picture.decode import DecodeError, DecodeLimits, decode
from resnext.picture.preprocess import Preprocessing
from worker.loader.config import STACK_BYTES, LoaderConfig

ROOT: Final = Path(__file__).parents[2]
PREPROCESSING: Final = Preprocessing(256, 224, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
LIMITS: Final = DecodeLimits(max_pixels=4_000_000)
LONGEST_S: Final = 60.0
_LENGTH: Final = struct.Struct("<I")


@dataclass(frozen=True)
class Ending:
    code: str
    """`pixels`, an error code, or an outcome that no image may have."""
    detail: str
    peak_bytes: int
    """The most resident memory while the image was decoded."""


class Decoder:
    """The parent's side of the child process."""

    def __init__(self, **limits: Any) -> None:
        self._arguments = [json.dumps(asdict(LIMITS) | limits)]
        self._child: subprocess.Popen[bytes] | None = None

    def decode(self, body: bytes) -> Ending:
        """Decodes one image. Starts a new child if the previous image ended the old one."""
        child = self._child = self._child or self._start()
        assert child.stdin is not None
        assert child.stdout is not None
        watchdog = threading.Timer(LONGEST_S, child.kill)
        watchdog.start()
        try:
            child.stdin.write(_LENGTH.pack(len(body)) + body)
            child.stdin.flush()
            line = child.stdout.readline()
        except BrokenPipeError:
            line = b""
        finally:
            watchdog.cancel()
        if line:
            return Ending(**json.loads(line))
        self.close()
        return Ending(f"died with {child.returncode}", "", 0)

    def close(self) -> None:
        if self._child is not None:
            self._child.communicate()
            self._child = None

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.pictures.decoder", *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
        )


@contextmanager
def decoder(**limits: Any) -> Iterator[Decoder]:
    child = Decoder(**limits)
    try:
        yield child
    finally:
        child.close()


def limit_as_a_loader(limits: DecodeLimits) -> None:
    """Limits this process from here on."""
    settings = Settings(max_pixels=limits.max_pixels)
    most = LoaderConfig.of(settings, PREPROCESSING).address_space_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.stack_size(STACK_BYTES)


def ending_of(body: bytes, limits: DecodeLimits) -> tuple[str, str]:
    """Decodes an image, and returns `pixels` or an error code, with the detail."""
    try:
        decoded = decode(body, limits=limits, preprocessing=PREPROCESSING, orientation="exif")
    except DecodeError as error:
        return error.code, error.detail
    if decoded.pixels.shape != (224, 224, 3) or decoded.pixels.dtype != "uint8":
        return "no pixels of the network's", f"{decoded.pixels.shape} {decoded.pixels.dtype}"
    return "pixels", ""


def main() -> None:
    limits = DecodeLimits(**json.loads(sys.argv[1]))
    limit_as_a_loader(limits)
    thread = threading.Thread(target=_serve, args=(sys.stdin.buffer, sys.stdout.buffer, limits))
    thread.start()  # a loader decodes in threads, which have small stacks
    thread.join()


def _serve(images: BinaryIO, endings: BinaryIO, limits: DecodeLimits) -> None:
    while head := images.read(_LENGTH.size):
        body = images.read(_LENGTH.unpack(head)[0])
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        try:
            code, detail = ending_of(body, limits)
        except BaseException as error:  # noqa: BLE001  (in a loader it would be `internal`)
            code, detail = "internal", repr(error)
        ending = Ending(code, detail, _peak_bytes())
        endings.write(json.dumps(asdict(ending)).encode() + b"\n")
        endings.flush()


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


if __name__ == "__main__":
    main()
