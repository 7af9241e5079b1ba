"""`submit --like JOB`: uses an existing job's options as defaults.

The name, key, images, expiry and notification are not copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from producer.jobs.job import Job


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the options ask for. None: not given."""

    model: str | None = None
    weights: str | None = None
    precision: str | None = None
    priority: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    stop_at_failures: float | None = None

    def like(self, job: Job) -> Asked:
        """The given options, and the job's values for all others.

        Weights belong to their model: if the options ask for another model, the job's weights are
        not used. Tags are merged key by key.
        """
        is_same_model = self.model in (None, job.model)
        return replace(
            self,
            model=self.model or job.model,
            weights=self.weights or (job.weights if is_same_model else None),
            precision=self.precision or job.precision,
            priority=job.priority if self.priority is None else self.priority,
            tags={**job.tags, **self.tags},
            stop_at_failures=(
                job.stop_at_failures if self.stop_at_failures is None else self.stop_at_failures
            ),
        )
