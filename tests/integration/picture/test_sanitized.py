"""The resampler in C under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import pytest

from tests.pictures.sanitized import NoSanitizersError, build, run

CASES = 400


def test_no_case_reads_or_writes_where_it_must_not(tmp_path) -> None:
    try:
        sanitized = build(tmp_path)
    except NoSanitizersError as error:
        pytest.skip(f"not checked under sanitizers: {error}")
    done = run(sanitized, seed=1, cases=CASES)
    assert (done.status, done.cases) == (0, CASES), f"case {done.last_seed}: {done.output}"
