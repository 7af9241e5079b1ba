"""The closed list of reasons why an image has no classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.failure import ERROR_CODES, MAX_DETAIL_CHARS, Failure, describe, is_known

ROOT = Path(__file__).parents[3]
PARTS = ("contract", "producer", "resnext", "worker")


@pytest.mark.parametrize("code", sorted(ERROR_CODES))
def test_each_code_has_a_cause_and_an_advice_in_sentences(code) -> None:
    entry = ERROR_CODES[code]
    assert entry.name == code
    assert entry.cause.endswith(".")
    assert entry.advice.endswith(".")
    assert describe(code) is entry


@pytest.mark.parametrize("code", sorted(ERROR_CODES))
def test_each_code_is_given_somewhere(code) -> None:
    """The list has no entries that nobody meets."""
    files = [path for part in PARTS for path in (ROOT / part).rglob("*.py")]
    texts = [path.read_text() for path in files if path.name != "error_codes.py"]
    assert any(f'"{code}"' in text for text in texts)


@pytest.mark.parametrize("code", ["", "nonsense", "http_", "http_x", "http_²²²", "http_40", "HTTP"])
def test_no_other_code_can_be_given(code) -> None:
    assert not is_known(code)
    with pytest.raises(ValueError, match="unknown error code"):
        Failure(code)
    with pytest.raises(KeyError):
        describe(code)


@pytest.mark.parametrize("status", [204, 301, 403, 404, 410, 418, 999])
def test_a_status_that_will_not_change_is_final(status) -> None:
    assert not Failure(f"http_{status}").retried
    assert str(status) in describe(f"http_{status}").cause


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_a_status_that_may_pass_is_retried(status) -> None:
    assert Failure(f"http_{status}").retried


def test_what_may_pass_is_retried_and_nothing_else() -> None:
    retried = {name for name, entry in ERROR_CODES.items() if entry.retried}
    assert retried == {"dns", "connect", "internal", "timeout"}


def test_a_long_detail_is_cut() -> None:
    assert len(Failure("internal", "x" * 10_000).detail) == MAX_DETAIL_CHARS
