"""The few questions that NVIDIA's driver answers about GPUs by its own library, NVML.

`resnext.run.nvidia` asks them. By ctypes, as torch does: these functions have kept their names and
arguments since they came, a driver brings the library, and the Python bindings would be a module of
330 kB that torch loads in every process that finds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import CDLL, Array, byref, c_char, c_int, c_uint, c_void_p, create_string_buffer
from typing import Final

LIBRARY: Final = "libnvidia-ml.so.1"
PROHIBITED: Final = 2
"""A compute mode: no process may compute."""
EXCLUSIVE_PROCESS: Final = 3
"""A compute mode: one process at a time may."""
_TEXT_BYTES: Final = 96  # NVML_DEVICE_UUID_V2_BUFFER_SIZE, the longest of the three


class NvmlError(Exception):
    """The driver, or this version of it, does not answer."""


class Nvml:
    """An open library. A handle stands for a GPU, or for an instance of one that MIG divides."""

    def __init__(self, library: CDLL) -> None:
        self._library = library

    def driver_version(self) -> str:
        return _text(lambda text: self._ask("nvmlSystemGetDriverVersion", text, _TEXT_BYTES))

    def handles(self) -> list[c_void_p]:
        """Of the GPUs, as nvidia-smi numbers them."""
        count = self._number("nvmlDeviceGetCount_v2")
        return [self._handle("nvmlDeviceGetHandleByIndex_v2", number) for number in range(count)]

    def uuid(self, handle: c_void_p) -> str:
        return _text(lambda text: self._ask("nvmlDeviceGetUUID", handle, text, _TEXT_BYTES))

    def name(self, handle: c_void_p) -> str:
        return _text(lambda text: self._ask("nvmlDeviceGetName", handle, text, _TEXT_BYTES))

    def compute_mode(self, handle: c_void_p) -> int:
        """0 where the GPU knows none."""
        try:
            return self._number("nvmlDeviceGetComputeMode", handle)
        except NvmlError:
            return 0

    def instances(self, handle: c_void_p) -> list[c_void_p] | None:
        """Of a GPU that MIG divides, whose instances alone compute; None: it is not divided."""
        now, after_a_reset = c_uint(), c_uint()
        try:
            self._ask("nvmlDeviceGetMigMode", handle, byref(now), byref(after_a_reset))
        except NvmlError:
            return None
        if not now.value:
            return None
        found = []
        for place in range(self._number("nvmlDeviceGetMaxMigDeviceCount", handle)):
            try:
                found.append(self._handle("nvmlDeviceGetMigDeviceHandleByIndex", handle, place))
            except NvmlError:  # no instance is there
                continue
        return found

    def _number(self, question: str, *about: object) -> int:
        answer = c_int()
        self._ask(question, *about, byref(answer))
        return answer.value

    def _handle(self, question: str, *about: object) -> c_void_p:
        answer = c_void_p()
        self._ask(question, *about, byref(answer))
        return answer

    def _ask(self, question: str, *arguments: object) -> None:
        function = getattr(self._library, question, None)
        if function is None:
            raise NvmlError(f"This driver has no {question}.")
        if status := function(*arguments):
            raise NvmlError(f"{question} answers with status {status}.")


@contextmanager
def open_nvml() -> Iterator[Nvml]:
    """
    Raises:
        NvmlError: there is no driver, or it does not work.
    """
    try:
        library = CDLL(LIBRARY)
    except OSError as error:
        raise NvmlError(str(error)) from error
    if status := library.nvmlInit_v2():
        raise NvmlError(f"NVML cannot be used: status {status}.")
    try:
        yield Nvml(library)
    finally:
        library.nvmlShutdown()


def _text(ask: Callable[[Array[c_char]], None]) -> str:
    text = create_string_buffer(_TEXT_BYTES)
    ask(text)
    return text.value.decode(errors="replace")
