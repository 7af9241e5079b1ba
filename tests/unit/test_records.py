"""What loaders send to the worker: every answer fits into its record, whatever a header says."""

from __future__ import annotations

import pytest

from contract.error_codes import Failure
from worker.outcome import Provenance
from worker.records import BadRecord, Done, pack_done, unpack_done

CAME = Provenance(
    final_uri="https://a.example/ü.jpg", bytes=7, sha256="ab" * 32, format="PNG", width=3, height=2
)


@pytest.mark.parametrize(
    "done",
    [
        Done(0, None, CAME),
        Done(5, Failure("timeout", "no answer", 12.5), Provenance()),
        Done(2**32 - 1, Failure("http_404", "Not Found"), CAME),
    ],
)
def test_an_answer_comes_out_as_it_went_in(done) -> None:
    assert unpack_done(pack_done(done)) == done


def test_the_largest_size_that_a_column_holds_is_told_and_a_larger_one_is_unknown() -> None:
    """A PNG's header may say 4294967295, and results.width is an INTEGER."""
    failure = Failure("too_many_pixels")
    told = Provenance(width=2**31 - 1, height=1)
    assert unpack_done(pack_done(Done(0, failure, told))).provenance == told
    beyond = Provenance(bytes=2**31, width=2**32 - 1, height=2**31)
    assert unpack_done(pack_done(Done(0, failure, beyond))).provenance == Provenance()


@pytest.mark.parametrize(
    "spoil", [lambda good: good[:-1], lambda good: good + b"\x05\x00ab", lambda _: b"", bytes.upper]
)
def test_what_no_loader_sends_is_no_record(spoil) -> None:
    with pytest.raises(BadRecord):
        unpack_done(spoil(pack_done(Done(0, Failure("dns", "b"), CAME))))
