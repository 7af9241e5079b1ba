"""Durations as users type them."""

from __future__ import annotations

import pytest

from contract.errors import UsageError
from producer.cli.duration import read_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1_800), ("2h", 7_200), ("7d", 604_800), ("1.5h", 5_400), (" 1d", 86_400)],
)
def test_a_number_with_a_unit_is_converted_to_seconds(text: str, seconds: float) -> None:
    assert read_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "h", "2 h", "-1h", "1h30m", "1e3s", "٣s", "2w", "nan"])
def test_an_invalid_duration_is_refused_with_examples_of_valid_ones(text: str) -> None:
    with pytest.raises(UsageError, match="90s, 30m, 2h, 7d") as it:
        read_duration(text)
    assert repr(text) in str(it.value)
