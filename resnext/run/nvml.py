"""A few functions of NVML, the library by which NVIDIA's driver answers questions about GPUs.

`resnext.run.nvidia` calls them. It uses ctypes, as torch does: these functions have always had the
same names and arguments, and the driver includes the library. The Python bindings would be a module
of 330 kB, which torch would then load in every process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import CDLL, Array, byref, c_char, c_int, c_uint, c_void_p, create_string_buffer
from typing import Final

LIBRARY: Final = "libnvidia-ml.so.1"
PROHIBITED: Final = 2
"""The compute mode in which no process may compute."""
EXCLUSIVE_PROCESS: Final = 3
"""The compute mode in which one process at once may compute."""
_TEXT_BYTES: Final = 96  # NVML_DEVICE_UUID_V2_BUFFER_SIZE, the longest of the three


class NvmlError(Exception):
    """The driver does not answer, or lacks the function."""


class Nvml:
    """The open library. A handle is a GPU, or an instance of one that MIG divides."""

    def __init__(self, library: CDLL) -> None:
        self._library = library

    def driver_version(self) -> str:
        return _text(lambda text: self._ask("nvmlSystemGetDriverVersion", text, _TEXT_BYTES))

    def handles(self) -> list[c_void_p]:
        """The handles of the GPUs, in the order of nvidia-smi's numbers."""
        count = self._number("nvmlDeviceGetCount_v2")
        return [self._handle("nvmlDeviceGetHandleByIndex_v2", number) for number in range(count)]

    def uuid(self, handle: c_void_p) -> str:
        return _text(lambda text: self._ask("nvmlDeviceGetUUID", handle, text, _TEXT_BYTES))

    def name(self, handle: c_void_p) -> str:
        return _text(lambda text: self._ask("nvmlDeviceGetName", handle, text, _TEXT_BYTES))

    def compute_mode(self, handle: c_void_p) -> int:
        """The compute mode; 0 if the GPU does not support it."""
        try:
            return self._number("nvmlDeviceGetComputeMode", handle)
        except NvmlError:
            return 0

    def instances(self, handle: c_void_p) -> list[c_void_p] | None:
        """The instances of a GPU that MIG divides, which then only computes in them; otherwise
        None.
        """
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
            except NvmlError:  # this place has no instance
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
            raise NvmlError(f"This driver does not have {question}.")
        if status := function(*arguments):
            raise NvmlError(f"{question} failed with status {status}.")


@contextmanager
def open_nvml() -> Iterator[Nvml]:
    """Opens the library.

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
