"""The other columns of a row stay with its URI, whatever stands between the rows."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest

from contract.errors import SourceError
from contract.failure import Failure
from producer.submit.check import Failed, OnInvalid, check
from producer.submit.groups import Group, gather
from producer.submit.sample import sampled
from producer.submit.sources.columns import MOST_COLUMNS, Keep, Wanted
from producer.submit.sources.entry import Run, apart
from producer.submit.sources.read import Reading, read_runs
from producer.submit.unique import without_duplicates
from tests import lists

ROWS = 20_000
LAYOUTS = ("csv", "tsv", "json", "jsonl", "parquet")


def uri_of(n: int) -> str:
    """Mostly plain URIs, some that are checked one by one, and some that are refused."""
    if n % 97 == 5:
        return f"https://bücher.example/{n}"
    if n % 101 == 7:
        return f"ftp://a.example/{n}"
    return "" if n % 103 == 9 else f"https://a.example/{n}"


def caption_of(n: int) -> str:
    return f'Nr. {n}: "a, b"\n; {"x" * (n % 83)}' if n % 7 == 3 else f"Nr. {n}: {'y' * (n % 83)}"


def number_in(caption: str) -> int:
    return int(caption.removeprefix("Nr. ").partition(":")[0])


@pytest.fixture(params=LAYOUTS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    rows = [(f"id-{n}", uri_of(n), caption_of(n)) for n in range(ROWS)]
    return lists.write(tmp_path / "list", request.param, rows)


def reading(**options: str) -> Reading:
    return Reading(Wanted("url", options.get("id_column"), Keep()))


@pytest.mark.parametrize("options", [{}, {"id_column": "id"}])
def test_each_image_has_the_values_of_its_own_row(path: Path, options: dict[str, str]) -> None:
    given = reading(**options)
    found = list(apart(read_runs([str(path)], reading=given)))
    assert len(found) == ROWS
    for n, image in enumerate(found):
        assert image.values is not None
        assert number_in(image.values["caption"]) == n
        assert image.values["caption"] == caption_of(n)
        assert ("id" in image.values) == (not options)
    assert list(given.wanted.keep.names) == (["caption"] if options else ["id", "caption"])


@pytest.mark.parametrize("on_invalid", [OnInvalid.skip, OnInvalid.record])
def test_values_stay_with_their_uri_on_the_way_to_a_job(path: Path, on_invalid: OnInvalid) -> None:
    checked = check(read_runs([str(path)], reading=reading()), [], on_invalid=on_invalid)
    groups = sampled(gather(checked, 1_000), 5_000)
    kept = 0
    for group in gather(groups, 700):
        assert len(group.values) == len(group.uris)
        for at, uri in enumerate(group.uris):
            values = group.values_at(at)
            assert values is not None
            n = number_in(values["caption"])
            assert (uri, values["id"]) == (uri_of(n), f"id-{n}")
            assert (at in group.failed) == (uri == "" or uri.startswith("ftp:"))
            kept += 1
    assert kept == 5_000


def test_rows_without_columns_can_stand_among_rows_with_columns() -> None:
    some = Run(["https://a.org/1", "https://a.org/2"], "a", 1, values=[{"a": 1}, {"a": 2}])
    none = Run(["https://a.org/3", "https://a.org/1"], "b", 1)
    failed = Failed("x", None, Failure("bad_uri", "why"), {"a": 3})
    (group,) = gather([none, some, none, failed])
    found = [group.values_at(at) for at in range(7)]
    assert found == [None, None, {"a": 1}, {"a": 2}, None, None, {"a": 3}]
    (unique,) = without_duplicates([group], findings())
    assert unique.uris == ["https://a.org/3", "https://a.org/1", "https://a.org/2", "x"]
    assert [unique.values_at(at) for at in range(4)] == [None, None, {"a": 2}, {"a": 3}]
    plain = Group(["https://a.org/1"], [None])
    assert (plain.only([0]).values, plain.cut(0, 1).values) == ([], [])


def findings():
    from producer.submit.check import Findings

    return Findings()


def test_a_failed_line_does_not_hide_a_valid_one_with_the_same_uri() -> None:
    uri = "https://a.org/1"
    ragged = Failure("bad_uri", "ragged")
    group = Group([uri, uri, uri], [None] * 3, {0: ragged})
    (kept,) = without_duplicates([group], findings())
    assert (kept.uris, kept.failed) == ([uri, uri], {0: ragged})


def test_a_submit_without_keep_reads_no_other_columns(path: Path) -> None:
    images = read_runs([str(path)], reading=Reading(Wanted("url", "id")))
    assert all(image.values is None for image in images)


def test_the_number_of_columns_is_limited() -> None:
    """Otherwise records with ever new keys would use up all memory."""
    record = b'{"url": "https://a.org/1", "key-%d": 1}\n'
    few = b"".join(record % n for n in range(MOST_COLUMNS))
    assert len(list(apart(read_runs(["-"], io.BytesIO(few), reading())))) == MOST_COLUMNS
    with pytest.raises(
        SourceError, match=r"more than 1,000 columns. Name the columns to keep: --keep"
    ):
        list(read_runs(["-"], io.BytesIO(few + record % MOST_COLUMNS), reading()))
    only = Reading(Wanted("url", None, Keep(("key-3",))))
    found = list(apart(read_runs(["-"], io.BytesIO(few), only)))
    assert [image.values["key-3"] for image in found[:5]] == [None, None, None, 1, None]


def test_the_kept_columns_do_not_depend_on_the_order_of_keys() -> None:
    names = [f"k{n}" for n in range(20)]
    shuffled = random.Random(3).sample(names, 20)
    pairs = ", ".join(f'"{name}": 1' for name in shuffled)
    data = f'{{"url": "https://a.org/1", {pairs}}}\n'.encode()
    given = reading()
    (image,) = apart(read_runs(["-"], io.BytesIO(data), given))
    assert list(image.values) == shuffled == list(given.wanted.keep.names)
