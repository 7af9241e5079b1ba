"""Lists in every format give the same images. The first bytes decide about the format."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import SourceError
from producer.submit.sources import parquet
from producer.submit.sources.columns import Wanted
from producer.submit.sources.entry import Bad, Entry, Run, apart
from producer.submit.sources.left_out import NO_IMAGE, OF_MACOS
from producer.submit.sources.opening import zstd
from producer.submit.sources.read import Reading, read_runs, read_sources
from producer.submit.sources.walk import IMAGE_EXTENSIONS
from tests.lists import FORMATS, write

REFERENCE = Path(__file__).parents[3] / "docs" / "reference.md"

ROWS = [
    (f"id {n}", f"https://a-{n % 7}.example.org/{n}.jpg", f"a cat, no {n}") for n in range(9_000)
]
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gzip": gzip.compress,
    "zstd": zstd.compress,
    "members": lambda data: gzip.compress(data[:1000]) + gzip.compress(data[1000:]),
    "frames": lambda data: zstd.compress(data[:1000]) + zstd.compress(data[1000:]),
    "skipped frame": lambda data: b"\x50\x2a\x4d\x18\x04\x00\x00\x00skip" + zstd.compress(data),
}
WITH_IDS = Reading(Wanted("url", "id"))


def images(path: Path, reading: Reading | None = None) -> list[tuple[str, str | None]]:
    return [(entry.uri, entry.ref) for entry in read_sources([str(path)], reading=reading)]


def bad_and_good(data: bytes, wanted: Wanted | None = None) -> list[tuple[str, int]]:
    read = apart(read_runs(["-"], io.BytesIO(data), Reading(wanted or Wanted())))
    return [(e.reason if isinstance(e, Bad) else e.uri, e.line) for e in read]


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("layout", FORMATS)
def test_every_format_gives_the_same_images_packed_or_not(tmp_path, layout, packed) -> None:
    path = tmp_path / "list.of.pictures"
    plain = write(tmp_path / "plain", layout, ROWS).read_bytes()
    path.write_bytes(PACKED[packed](plain))
    if layout == "parquet" and packed != "plain":
        with pytest.raises(SourceError, match="is a compressed Parquet file"):
            images(path)
        return
    assert images(path, WITH_IDS) == [(uri, ref) for ref, uri, _ in ROWS]
    assert images(path) == [(uri, None) for _, uri, _ in ROWS]


@pytest.mark.parametrize("layout", FORMATS)
def test_a_place_is_a_line_of_text_or_a_row_of_an_array_or_parquet(tmp_path, layout) -> None:
    path = write(tmp_path / "list", layout, [*ROWS[:3], ("4", "ftp://a.org/", "")])
    last = list(read_sources([str(path)]))[-1]
    line = {"csv": 5, "tsv": 5}.get(layout, 4)
    unit = "row" if layout in ("json", "parquet") else "line"
    assert str(last.place) == f"{path}, {unit} {line}, column 'url'"


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [("utf-8-sig", ""), ("utf-16", ""), ("utf-16-be", "\ufeff"), ("utf-32", "")],
)
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_byte_order_marks_and_line_ends_of_all_systems_are_understood(
    encoding, mark, ending
) -> None:
    table = ending.join([f"{mark}url,id", "http://a.org/ü,1", '"http://a.org/2","é ""2"""', ""])
    data = table.encode(encoding)
    entries = list(read_sources(["-"], io.BytesIO(data), WITH_IDS))
    assert [(e.uri, e.ref, e.line) for e in entries] == [
        ("http://a.org/ü", "1", 2),
        ("http://a.org/2", 'é "2"', 3),
    ]
    text = ending.join([f"{mark}http://a.org/1", "# no", "http://a.org/2\tx"]).encode(encoding)
    entries = list(read_sources(["-"], io.BytesIO(text)))
    assert [(e.uri, e.ref, e.line) for e in entries] == [
        ("http://a.org/1", None, 1),
        ("http://a.org/2", "x", 3),
    ]


@pytest.mark.parametrize(
    ("heading", "uri"),
    [
        ("url", "url"), ("URL", "URL"), ("id,Image_URL", "Image_URL"), ("picture", None),
        ("picture,id", None), ("caption;uri;id", "uri"), ("a\turi", "uri"),
    ],
)  # fmt: skip
def test_a_table_is_recognised_by_its_heading(heading, uri) -> None:
    cells = ["x"] * (1 + sum(map(heading.count, ",;\t")))
    delimiter = next((one for one in "\t,;" if one in heading), ",")
    names = heading.split(delimiter)
    if uri is not None:
        cells[names.index(uri)] = "http://a.org/1"
        data = f"{heading}\n{delimiter.join(cells)}\n".encode()
        assert bad_and_good(data) == [("http://a.org/1", 2)]
    elif len(names) > 1:
        with pytest.raises(
            SourceError, match=r"no column is named uri, url.* Columns: 'picture', 'id'"
        ):
            bad_and_good(f"{heading}\nx,y\n".encode())
    else:  # a single word is a line of a list
        assert bad_and_good(b"picture\n") == [("picture", 1)]
        assert bad_and_good(b"picture\nhttp://a.org/1", Wanted("picture")) == [
            ("http://a.org/1", 2)
        ]


def test_line_numbers_are_right_after_multiline_cells_and_blank_lines() -> None:
    data = b'\nurl,about\nhttp://a.org/1,"two\nlines, ""quoted"""\n\nhttp://a.org/2,x\nhttp://a.org/3\n'
    assert bad_and_good(data) == [
        ("http://a.org/1", 3),
        ("http://a.org/2", 6),
        ("1 cell, but the heading has 2", 7),
    ]


def test_a_quoted_cell_may_continue_in_the_next_block() -> None:
    """Blocks are a few hundred kilobytes and may end anywhere."""
    long = "x\n" * 60_000
    rows = "".join(f'http://a.org/{n},"{long}"\n' for n in range(5))
    read = bad_and_good(f"url,about\n{rows}".encode())
    assert read == [(f"http://a.org/{n}", 2 + n * 60_001) for n in range(5)]


CELL = st.text(st.sampled_from('ab", \n\r;ü'), max_size=6)


@given(st.lists(st.tuples(CELL, CELL), max_size=20), st.booleans())
def test_tables_are_read_as_the_csv_module_reads_them(rows, quoted) -> None:
    import csv

    file = io.StringIO(newline="")
    has_cr = any("\r" in cell for row in rows for cell in row)  # the csv module does not quote it
    quoting = csv.QUOTE_ALL if quoted or has_cr else csv.QUOTE_MINIMAL
    table = csv.writer(file, quoting=quoting, lineterminator="\n")
    table.writerows([("url", "id"), *rows])
    data = file.getvalue().encode()
    read = apart(read_runs(["-"], io.BytesIO(data), WITH_IDS))
    read = [(e.shown if isinstance(e, Bad) else e.uri, e.ref) for e in read]
    assert read == [(uri.strip(), ref or None) for uri, ref in rows]


VALUE = st.recursive(
    st.one_of(st.integers(), st.text('a"},[]{:ü\\', max_size=5), st.none(), st.booleans()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text('a"},', max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.lists(VALUE, min_size=1, max_size=30), st.sampled_from([None, 2]), st.booleans())
def test_elements_of_an_array_are_separated_whatever_they_contain(values, indent, escaped) -> None:
    records = [{"url": f"http://a.org/{n}", "x": value} for n, value in enumerate(values)]
    data = json.dumps(records, indent=indent, ensure_ascii=escaped).encode()
    read = read_runs(["-"], Trickle(data, 37), Reading(Wanted("url")))
    assert [(e.uri, e.line) for e in apart(read)] == [
        (record["url"], n) for n, record in enumerate(records, start=1)
    ]


class Trickle(io.BytesIO):
    """A pipe that returns only a few bytes at once."""

    def __init__(self, data: bytes, size: int) -> None:
        super().__init__(data)
        self._size = size

    def read1(self, size: int = -1) -> bytes:
        return self.read(min(size, self._size) if size >= 0 else self._size)


@pytest.mark.parametrize("layout", [name for name in FORMATS if name != "parquet"])
def test_a_slow_pipe_gives_the_same_images(tmp_path, layout) -> None:
    data = write(tmp_path / "list", layout, ROWS[:100]).read_bytes()
    for packed in (data, gzip.compress(data), zstd.compress(data)):
        read = read_sources(["-"], Trickle(packed, 7), WITH_IDS)
        assert [(e.uri, e.ref) for e in read] == [(uri, ref) for ref, uri, _ in ROWS[:100]]


def test_texts_in_json_are_uris() -> None:
    uris = ["http://a.org/1", "http://a.org/2"]
    assert bad_and_good(json.dumps(uris).encode()) == [(uri, n) for n, uri in enumerate(uris, 1)]
    assert bad_and_good(b"[]") == []
    lines = "".join(f'"{uri}"\n' for uri in uris).encode()
    assert bad_and_good(lines) == [(uri, n) for n, uri in enumerate(uris, 1)]
    assert bad_and_good(b'["http://a.org/1", 7]') == [
        ("http://a.org/1", 1),
        ("an integer, not a text", 2),
    ]


IDS = [
    ("1", "1"), ("0", "0"), ("-9223372036854775808", "-9223372036854775808"),
    ("18446744073709551615", "18446744073709551615"), ('"x"', "x"), ('""', None), ("null", None),
]  # fmt: skip
NO_IDS = [
    ("18446744073709551616", "a number with a fraction or of more than 64 bits"),
    ("1.5", "a number with a fraction"), ("true", "true or false"), ("[1]", "a list"),
    ('{"a":1}', "an object"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "ref"), IDS)
@pytest.mark.parametrize("brackets", ["{}", "[{}]"])
def test_ids_are_texts_or_integers_that_fit(text, ref, brackets) -> None:
    record = f'{{"url": "http://a.org/1", "id": {text}}}'
    data = brackets.replace("{}", record).encode()
    (entry,) = read_sources(["-"], io.BytesIO(data), WITH_IDS)
    assert entry.ref == ref


@pytest.mark.parametrize(("text", "words"), NO_IDS)
@pytest.mark.parametrize("brackets", ["{}", "[{}]"])
def test_other_ids_are_refused_rather_than_rounded(text, words, brackets) -> None:
    record = f'{{"url": "http://a.org/1", "id": {text}}}'
    data = brackets.replace("{}", record).encode()
    ((reason, line),) = bad_and_good(data, WITH_IDS.wanted)
    assert reason.startswith(f"the id is {words}")
    assert line == 1


def test_some_records_may_lack_an_id_but_not_all() -> None:
    lines = [b'{"url": "http://a.org/1"}', b'{"url": "http://a.org/2", "id": "b"}']
    read = read_sources(["-"], io.BytesIO(b"\n".join(lines)), WITH_IDS)
    assert [entry.ref for entry in read] == [None, "b"]
    with pytest.raises(SourceError, match="no column 'id', which --id-column names"):
        list(read_sources(["-"], io.BytesIO(lines[0]), WITH_IDS))


def test_parquet_keeps_integer_ids_nulls_and_dictionaries(tmp_path) -> None:
    import pyarrow as pa
    from pyarrow.parquet import write_table

    uris = pa.array(["http://a.org/1", None, "http://a.org/3", "http://a.org/a\nb"])
    for column in (uris, uris.dictionary_encode(), uris.cast(pa.large_string())):
        ids = pa.array([2**64 - 1, 1, None, 3], pa.uint64())
        write_table(pa.table({"url": column, "id": ids}), tmp_path / "x.parquet")
        read = list(apart(read_runs([str(tmp_path / "x.parquet")], reading=WITH_IDS)))
        assert read[0][:2] == ("http://a.org/1", "18446744073709551615")
        assert (read[1].reason, read[1].line, read[1].ref) == ("empty", 2, "1")
        assert read[2][:2] == ("http://a.org/3", None)
        assert read[3][:2] == ("http://a.org/a\nb", "3")


def test_parquet_is_read_from_a_redirected_file_but_not_from_a_pipe(tmp_path) -> None:
    path = write(tmp_path / "list", "parquet", ROWS[:3])
    with path.open("rb") as file:
        assert len(list(read_sources(["-"], file))) == 3
    read, to = os.pipe()
    threading.Thread(target=lambda: [os.write(to, path.read_bytes()), os.close(to)]).start()
    with (
        os.fdopen(read, "rb") as pipe,
        pytest.raises(SourceError, match="cannot be read from a pipe"),
    ):
        list(read_sources(["-"], pipe))


def test_parquet_without_pyarrow_says_what_to_install(tmp_path) -> None:
    path = write(tmp_path / "list", "parquet", ROWS[:3])
    code = f"""
import sys
sys.modules["pyarrow"] = None
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "pyarrow" else found(name, *rest)
sys.argv = ["resnextq", "submit", "--dry-run", {str(path)!r}]
from producer.cli.main import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "needs pyarrow. Install it with: pip install '.[parquet]' in the" in done.stderr


def test_the_files_of_a_pattern_are_read_in_the_order_of_names(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for n in (2, 1):
        write(tmp_path / f"part-{n}", "csv", ROWS[n : n + 1])
        (tmp_path / f"photos-{n}").mkdir()
        (tmp_path / f"photos-{n}" / "cat.jpg").touch()
    (tmp_path / "odd[1].jpg").touch()
    uris = [entry.uri for entry in read_sources(["part-*", "photos-?", "**/c*.jpg", "odd[1].jpg"])]
    cats = [(tmp_path / f"photos-{n}" / "cat.jpg").as_uri() for n in (1, 2)]
    assert uris == [ROWS[1][1], ROWS[2][1], *cats, *cats, (tmp_path / "odd[1].jpg").as_uri()]
    with pytest.raises(SourceError, match="'none-\\*' matches no file"):
        next(read_sources(["none-*"]))


def test_a_folder_reports_what_it_leaves_out_and_why(tmp_path) -> None:
    for name in ("a.jpg", "b.txt", "c.TXT", "d", "sub.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "round").symlink_to(tmp_path)
    reading = Reading()
    assert len(list(read_sources([str(tmp_path)], reading=reading))) == 1
    assert sorted(reading.left_out.lines()) == [
        f"{tmp_path}: 1 file left out: a link to a folder, which is not followed",
        f"{tmp_path}: 4 files left out: {NO_IMAGE} (.txt 2, no extension 1, .mp4 1)",
    ]


@pytest.mark.parametrize("extension", sorted(IMAGE_EXTENSIONS))
def test_a_folders_images_are_known_by_each_usual_extension(tmp_path, extension) -> None:
    for name in (f"a{extension}", f"b{extension.upper()}"):
        (tmp_path / name).touch()
    found = [entry.uri for entry in read_sources([str(tmp_path)])]
    assert found == [file.as_uri() for file in sorted(tmp_path.iterdir())]


def test_the_reference_lists_the_extensions_of_images() -> None:
    (line,) = re.findall(r"Image files end in (.*), in any case", REFERENCE.read_text())
    assert set(re.findall(r"`(\.\w+)`", line)) == IMAGE_EXTENSIONS
    assert {".jpe", ".jfif", ".heic", ".heif"} <= IMAGE_EXTENSIONS


@pytest.mark.parametrize("name", ["a.csv", "a.CSV.gz"])
def test_a_csv_without_a_heading_is_refused_with_advice(tmp_path, name) -> None:
    path = tmp_path / name
    content = b"https://a.org/1.jpg,a cat\nhttps://a.org/2.jpg,dog\n"
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(SourceError, match=r"line 1: this is CSV by its name.*`url,caption`"):
        images(path)
    path.with_name("one column.csv").write_text("https://a.org/1.jpg\nhttps://a.org/2,3.jpg\n")
    assert len(images(path.with_name("one column.csv"))) == 2
    path.with_name("a.txt").write_text("https://a.org/w_2,h_3/1.jpg\n")
    assert images(path.with_name("a.txt")) == [("https://a.org/w_2,h_3/1.jpg", None)]


def test_files_that_macos_puts_beside_images_are_left_out(tmp_path) -> None:
    (tmp_path / "__MACOSX" / "photos").mkdir(parents=True)
    (tmp_path / "photos").mkdir()
    for name in ("photos/a.jpg", "photos/._a.jpg", "__MACOSX/photos/._a.jpg", "__MACOSX/b.jpg"):
        (tmp_path / name).touch()
    reading = Reading()
    found = [entry.uri for entry in read_sources([str(tmp_path)], reading=reading)]
    assert found == [(tmp_path / "photos" / "a.jpg").as_uri()]
    assert list(reading.left_out.lines()) == [f"{tmp_path}: 3 files left out: {OF_MACOS}"]


class Endless(io.RawIOBase):
    """The same bytes many times, after a head."""

    def __init__(self, head: bytes, block: bytes, times: int) -> None:
        self._blocks: Iterator[bytes] = iter([head, *[block] * times])

    def read1(self, _size: int = -1) -> bytes:
        return next(self._blocks, b"")


MEGABYTE = 2**20
LONG = {
    "list": (b"http://a.org/1\n", b"x", "line 2: longer than 65,536 bytes"),
    "csv": (b"url\nhttp://a.org/1\n", b"x", "line 3: longer than 1,048,576 bytes"),
    "jsonl": (b'{"url": "http://a.org/1"}\n', b"x", "line 2: longer than 1,048,576 bytes"),
    "json": (b'["http://a.org/1", "', b"x", "row 2: no complete element within 1,048,576"),
    "open quote": (
        b'url,x\nhttp://a.org/1,"a\nb"\nhttp://a.org/2,"a',
        b"http://a.org/3,x\n",
        "line 4: a quote opens here and is not closed",
    ),
    "open quotes in short cells": (
        b'url,x\nhttp://a.org/1,"a\n',
        b'","\n',
        r"line \d+: a quote opens here \(its row begins in line 2\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", LONG)
def test_a_line_of_a_hundred_megabytes_is_an_error_in_limited_memory(what) -> None:
    head, block, words = LONG[what]
    file = Endless(head, block * (MEGABYTE // 4 // len(block)), 400)
    tracemalloc.start()
    try:
        with pytest.raises(SourceError, match=f"standard input, {words}"):
            list(read_sources(["-"], file))
        assert tracemalloc.get_traced_memory()[1] < 40 * MEGABYTE
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("layout", ["csv", "jsonl", "json", "parquet"])
def test_memory_does_not_grow_with_the_list(tmp_path, layout) -> None:
    path = write(tmp_path / "list", layout, ROWS * 20)
    tracemalloc.start()
    try:
        count = sum(len(image.uris) for image in read_runs([str(path)]) if isinstance(image, Run))
        assert count == len(ROWS) * 20
        assert tracemalloc.get_traced_memory()[1] < 12 * MEGABYTE
    finally:
        tracemalloc.stop()


def test_reading_text_loads_neither_pyarrow_nor_an_object_store(tmp_path) -> None:
    path = write(tmp_path / "list", "csv", ROWS[:3])
    code = f"""
import sys
from producer.submit.sources.read import read_runs
assert len(list(read_runs([{str(path)!r}]))) == 1
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded.isdisjoint({"pyarrow", "obstore", "numpy"})
    assert parquet.__doc__


def test_plain_rows_form_one_run(tmp_path) -> None:
    path = write(tmp_path / "list", "jsonl", ROWS[:50])
    (run,) = read_runs([str(path)], reading=WITH_IDS)
    assert isinstance(run, Run)
    assert next(run.entries()) == Entry(ROWS[0][1], "id 0", str(path), 1, None, "line", "url")
