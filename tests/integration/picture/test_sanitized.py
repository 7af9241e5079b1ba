"""The resampler in C under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import pytest

from tests.pictures.sanitized import NoSanitizersError, build, run

CASES = 300


@pytest.mark.parametrize("defined", [(), ("BASELINE_ONLY",)], ids=["this processor", "any"])
def test_no_case_reads_or_writes_where_it_must_not(defined, tmp_path) -> None:
    """And each gives Pillow's bits, also by the loops for processors without AVX2."""
    try:
        sanitized = build(tmp_path, *defined)
    except NoSanitizersError as error:
        pytest.skip(f"not checked under sanitizers: {error}")
    done = run(sanitized, seed=1, cases=CASES)
    assert (done.status, done.cases) == (0, CASES), f"case {done.last_seed}: {done.output}"
