"""Tests what the sandbox prevents, in a process that is started like a loader.

The worker logs the result at its start, and `resnextq doctor` shows it. It draws no conclusion from
the kernel's version: `worker.loader.sandbox.attempts` tries each thing inside the sandbox, and only
what the kernel refuses counts.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from contract.errors import UnavailableError
from contract.settings import PREFIX, Settings
from worker.loader.sandbox import landlock
from worker.loader.sandbox.attempts import ATTEMPTS
from worker.loader.sandbox.spawn import spawn, write_permitted

log = logging.getLogger(__name__)

# A busy machine starts processes slowly.
WITHIN_S: Final = 60.0
MOST_ANSWER_BYTES: Final = 64 * 1024


@dataclass(frozen=True)
class Protections:
    refused: tuple[str, ...]
    """The names in `ATTEMPTS` of what loaders cannot do here."""
    possible: tuple[str, ...]
    """The names of what they can do."""

    def __str__(self) -> str:
        if not self.possible:
            return f"loaders cannot {_listed(self.refused)}"
        refused = f"; they cannot {_listed(self.refused)}" if self.refused else ""
        return f"loaders can {_listed(self.possible)}{refused}"

    @property
    def advice(self) -> str:
        """What to do about the possible things. Empty if there are none."""
        if not self.possible:
            return ""
        if landlock.version():
            return f"See {PREFIX}SANDBOX. A container's own seccomp profile may prevent ours."
        return "Use Linux 5.13 or newer with Landlock, which the boot option `lsm=` must not omit."


def find_out(settings: Settings) -> Protections:
    """Tests the protections.

    Raises:
        OSError, subprocess.SubprocessError: no process can be started, or it does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="resnext-probe-") as folder:
        outside = Path(folder, "outside")
        outside.touch()
        refused = _ask(outside, inside=settings.sandbox != "off")
    return Protections(
        tuple(name for name in ATTEMPTS if name in refused),
        tuple(name for name in ATTEMPTS if name not in refused),
    )


def tell_protections(settings: Settings) -> None:
    """Tests the protections, and logs the result.

    Raises:
        UnavailableError: protections that `RESNEXT_SANDBOX` requires are missing.
    """
    try:
        found = find_out(settings)
    except (OSError, subprocess.SubprocessError) as error:
        _require(settings, f"The sandbox could not be tested: {error}.")
        return
    if not found.possible:
        log.info("sandbox: on; `resnextq doctor` lists what loaders cannot do")
    elif settings.sandbox == "off":
        log.warning("sandbox: off; loaders can %s", _listed(found.possible))
    else:
        _require(
            settings, f"sandbox: incomplete; loaders can {_listed(found.possible)}. {found.advice}"
        )


def _require(settings: Settings, message: str) -> None:
    if settings.sandbox == "required":
        raise UnavailableError(f"{message} {PREFIX}SANDBOX is `required`.")
    log.warning("%s", message)


def _ask(outside: Path, *, inside: bool) -> list[str]:
    answer = os.memfd_create("resnext-attempts", os.MFD_CLOEXEC)
    permitted = write_permitted([]) if inside else None
    descriptors = [answer] if permitted is None else [answer, permitted]
    try:
        _attempt_all(outside, answer, permitted)
        refused: list[str] = json.loads(os.pread(answer, MOST_ANSWER_BYTES, 0))
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return refused


def _attempt_all(outside: Path, answer: int, permitted: int | None) -> None:
    child = spawn(
        "worker.loader.sandbox.attempts",
        str(outside),
        str(answer),
        inherited=[answer],
        permitted=permitted,
        variables={k: v for k, v in os.environ.items() if k == "PYTHONPATH"},
    )
    with child:
        try:
            _, said = child.communicate(timeout=WITHIN_S)
        except subprocess.TimeoutExpired:
            child.kill()
            raise
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, child.args, stderr=said)


def _listed(names: tuple[str, ...]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last
