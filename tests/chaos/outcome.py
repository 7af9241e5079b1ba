"""The outcome of one row on one database; a row's process prints it for the table."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Self

from tests.chaos.rows import Row
from tests.chaos.stack import Database
from tests.chaos.trial import Trial
from tests.chaos.verdict import Verdict


@dataclass(frozen=True, kw_only=True)
class Outcome:
    name: str
    database: Database
    caused: int = 0
    verdict: Verdict = Verdict()  # noqa: RUF009  (frozen)
    worst_s: float | None = None
    """The longest recovery; None: this row measures none."""
    skipped: str = ""
    """Why the row could not run on this machine."""
    complaints: tuple[str, ...] = ()

    @classmethod
    def of(cls, row: Row, database: Database, trial: Trial, verdict: Verdict) -> Self:
        worst_s = max(trial.recoveries_s, default=None)
        complaints = list(trial.complaints)
        if worst_s is not None and row.within_s is not None and worst_s > row.within_s:
            complaints.append(
                f"a recovery took {worst_s:.1f} s and must take {row.within_s:.0f} s at most"
            )
        return cls(
            name=row.name,
            database=database,
            caused=trial.caused,
            verdict=verdict,
            worst_s=worst_s,
            complaints=tuple(complaints),
        )

    @property
    def is_good(self) -> bool:
        return self.verdict.is_clean and not self.complaints

    def encode(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, line: str) -> Self:
        fields = json.loads(line)
        verdict = fields.pop("verdict")
        verdict = Verdict(**verdict | {"findings": tuple(verdict["findings"])})
        complaints = tuple(fields.pop("complaints"))
        return cls(verdict=verdict, complaints=complaints, **fields)
