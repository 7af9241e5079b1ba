"""The closed list of reasons why an image has no classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.failure import ERROR_CODES, MAX_DETAIL_CHARS, Failure, describe, is_known

ROOT = Path(__file__).parents[3]
PARTS = ("contract", "producer", "resnext", "worker")


@pytest.mark.parametrize("code", sorted(ERROR_CODES))
def test_each_code_has_a_cause_and_advice_in_full_sentences(code) -> None:
    entry = ERROR_CODES[code]
    assert entry.name == code
    assert entry.cause.endswith(".")
    assert entry.advice.endswith(".")
    assert describe(code) is entry


@pytest.mark.parametrize("code", sorted(ERROR_CODES))
def test_each_code_is_used(code) -> None:
    """The list has no entries that never occur."""
    files = [path for part in PARTS for path in (ROOT / part).rglob("*.py")]
    texts = [path.read_text() for path in files if path.name != "error_codes.py"]
    assert any(f'"{code}"' in text for text in texts)


@pytest.mark.parametrize("code", ["", "nonsense", "http_", "http_x", "http_²²²", "http_40", "HTTP"])
def test_no_other_code_can_be_used(code) -> None:
    assert not is_known(code)
    with pytest.raises(ValueError, match="unknown error code"):
        Failure(code)
    with pytest.raises(KeyError):
        describe(code)


@pytest.mark.parametrize("status", [204, 301, 403, 404, 410, 418, 999])
def test_a_status_that_will_not_change_is_not_retried(status) -> None:
    assert not Failure(f"http_{status}").retried
    assert str(status) in describe(f"http_{status}").cause


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_a_transient_status_is_retried(status) -> None:
    assert Failure(f"http_{status}").retried


def test_only_transient_errors_are_retried() -> None:
    retried = {name for name, entry in ERROR_CODES.items() if entry.retried}
    assert retried == {"dns", "connect", "internal", "timeout"}


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "RESNEXT_FETCH_HEADERS"),
        (403, "RESNEXT_FETCH_HEADERS"),
        (404, "Correct it"),
        (410, "Correct it"),
        (418, "in a browser"),
        (429, "RESNEXT_HOST_IMAGES_PER_S"),
        (500, "retry later"),
        (503, "retry later"),
    ],
)
def test_the_advice_for_a_status_fits_it(status, words) -> None:
    """For example, a browser shows nothing about a server that was busy at the time."""
    assert words in describe(f"http_{status}").advice


def test_a_long_detail_is_shortened() -> None:
    assert len(Failure("internal", "x" * 10_000).detail) == MAX_DETAIL_CHARS
