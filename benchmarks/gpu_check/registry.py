"""The steps, quick ones first. The seconds are estimates for an H200 with 16 cores."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.gpu_check.step import Step


def _step(name: str, estimate_s: float, limit_s: float, **more: bool) -> Step:
    check = f"benchmarks.gpu_check.steps.{name}:check"
    return Step(name=name, check=check, estimate_s=estimate_s, limit_s=limit_s, **more)


STEPS = {
    step.name: step
    for step in (
        _step("environment", 10, 60, on_cpu=True),
        _step("exactness", 30, 120, on_cpu=True),
        _step("lanes", 40, 90, on_cpu=True),
        _step("faults", 70, 150, on_cpu=True),
        _step("layers", 60, 120),
        _step("profile", 10, 45),
        _step("speed", 25, 75),
        _step("nvjpeg", 20, 60),
        _step("compile", 100, 240, may_be_cut=True),
        _step("rival", 130, 600, may_be_cut=True),
        _step("path", 150, 600, may_be_cut=True),
    )
}


def find_steps(words: Sequence[str]) -> list[Step]:
    """Finds steps by name, by number, or by a range such as 0-7.

    Raises:
        ValueError: a step does not exist.
    """
    return [STEPS[name] for word in words for name in _named(word)]


def _named(word: str) -> list[str]:
    names = list(STEPS)
    if word in STEPS:
        return [word]
    first, _, last = word.partition("-")
    try:
        found = names[int(first) : int(last or first) + 1]
    except ValueError:
        found = []
    if not found:
        raise ValueError(
            f"{word!r} is not a step: give a number from 0 to {len(names) - 1}, a range such as "
            f"0-7, or one of: {', '.join(names)}."
        )
    return found
