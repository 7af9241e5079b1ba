"""One fault, caused repeatedly in one stack, and the verdict on its jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random

from sqlalchemy import func, select

from contract.database.engine import reading
from contract.database.tables import jobs
from tests.chaos.load import Load
from tests.chaos.stack import Stack
from tests.chaos.verdict import Verdict, judge
from tests.chaos.wait import WaitedInVainError


@dataclass
class Trial:
    stack: Stack
    random: Random
    load: Load
    times: int
    """How often to cause the fault."""
    short: bool
    """Whether outages are short, instead of as long as the table says."""
    caused: int = 0
    recoveries_s: list[float] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    """Descriptions of what else went wrong."""

    def rounds(self) -> Iterator[int]:
        for n in range(self.times):
            yield n
            self.caused += 1

    def recovered(self, seconds: float) -> None:
        self.recoveries_s.append(seconds)

    def demand(self, what: str, *, holds: bool) -> None:
        """Adds a complaint if `holds` is false."""
        if not holds:
            self.complaints.append(f"this did not hold: {what}")


Fault = Callable[[Trial], None]


def run_trial(
    fault: Fault, stack: Stack, *, times: int, short: bool, seed: int
) -> tuple[Trial, Verdict]:
    """Causes the fault `times` times, waits until every job has ended, and judges the jobs."""
    random = Random(seed)
    trial = Trial(stack, random, Load(stack, random, short=short), times, short)
    before = _count_jobs(stack)
    try:
        fault(trial)
        stack.heal()
        trial.load.finish()
    except WaitedInVainError as error:  # lost images are still counted
        trial.complaints.append(str(error))
    return trial, judge(stack.engine, trial.load.jobs, before=before)


def _count_jobs(stack: Stack) -> int:
    with reading(stack.engine) as connection:
        return connection.scalar(select(func.count()).select_from(jobs)) or 0
