"""The C resampler under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import pytest

from tests.pictures.sanitized import NoSanitizersError, build, run

CASES = 300


@pytest.mark.parametrize("defined", [(), ("BASELINE_ONLY",)], ids=["this processor", "any"])
def test_no_case_accesses_memory_out_of_bounds(defined, tmp_path) -> None:
    """Each case also gives Pillow's bits, even with the loops for processors without AVX2."""
    try:
        sanitized = build(tmp_path, *defined)
    except NoSanitizersError as error:
        pytest.skip(f"not checked under sanitizers: {error}")
    done = run(sanitized, seed=1, cases=CASES)
    assert (done.status, done.cases) == (0, CASES), f"case {done.last_seed}: {done.output}"
