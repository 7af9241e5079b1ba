"""Messages about a bad list: where the fault is, the value, and what to do."""

from __future__ import annotations

import gzip
import io
import json
import re
from pathlib import Path

import pytest

from contract.errors import SourceError
from producer.submit.check import RefusedError, check
from producer.submit.sources.columns import Wanted
from producer.submit.sources.opening import zstd
from producer.submit.sources.read import Reading, read_runs

GOOD = "http://a.org/1"
TABLE = f"url,id\n{GOOD},1\n".encode()

# Bytes, options, and the whole message after the name of the file.
WHOLE = {
    "no such column": (
        TABLE, Wanted("urls"),
        (", line 1: there is no column 'urls', which --column names. Did you mean 'url'? "
        "Columns: 'url', 'id'."),
    ),
    "no such id": (
        TABLE, Wanted(None, "key"),
        ", line 1: there is no column 'key', which --id-column names. Columns: 'url', 'id'.",
    ),
    "two columns of URIs": (
        b"url,uri\n", Wanted(),
        (", line 1: more than one column has 'url', 'uri'. Columns: 'url', 'uri'. "
        "Name the one with the URIs: --column NAME."),
    ),
    "no column of URIs": (
        b"a,b\n1,2\n", Wanted(),
        (", line 1: no column is named uri, url, image_uri, image_url. Columns: 'a', 'b'. "
        "Name the one with the URIs: --column NAME."),
    ),
    "a heading twice": (
        b"url,x,x\n", Wanted(),
        ", line 1: two columns are named 'x'. Give each column its own name.",
    ),
    "no heading": (
        f"{GOOD},1\n".encode(), Wanted("url"),
        (", line 1: a list without a heading, so there are no columns for --column and "
        "--id-column. Write a heading, or leave these options out."),
    ),
    "a URI as heading": (
        f'"{GOOD}","x"\n'.encode(), Wanted(f"{GOOD}"),
        ", line 1: there is a URI in place of the heading. Write a heading.",
    ),
    "NUL": (
        TABLE + b"http://a.org/\x00,2\n", Wanted(),
        (", line 3: binary data (a NUL). A list must be text in UTF-8, or in UTF-16 with a byte "
        "order mark."),
    ),
    "NUL in JSONL": (
        b'{"url": "x"}\n{"url": "a\x00b"}\n', Wanted(),
        (", line 2: binary data (a NUL). A list must be text in UTF-8, or in UTF-16 with a byte "
        "order mark."),
    ),
    "Latin-1": (
        TABLE + b"http://a.org/2,M\xfcnchen\n", Wanted(),
        (", line 3: byte 17 (0xFC) is not UTF-8. If the file is in Latin-1 or Windows-1252, "
        "convert it: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW"),
    ),
    "Latin-1 in JSONL": (
        b'{"url": "x"}\n{"url": "\xfc"}\n', Wanted(),
        (", line 2: byte 10 (0xFC) is not UTF-8. If the file is in Latin-1 or Windows-1252, "
        "convert it: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW"),
    ),
    "Latin-1 in JSON": (
        b'["x", "\xfc"]', Wanted(),
        (", row 2: not UTF-8 (byte 0xFC). If the file is in Latin-1 or Windows-1252, convert it: "
        "iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW"),
    ),
    "half of a UTF-16": (
        "url\nhttp://a.org/1".encode("utf-16")[:-1], Wanted(),
        " begins as UTF-16, but the rest is not: write it in UTF-8.",
    ),
    "an open quote": (
        TABLE + b'"http://a.org/2,2\nhttp://a.org/3,3\n', Wanted(),
        (", line 3: a quote opens here and is not closed where its cell ends. "
        'Close it, and double each " that is part of a cell.'),
    ),
    "an open quote that another one closes": (
        TABLE + b'"http://a.org/2,2\n"http://a.org/3",3\n', Wanted(),
        (", line 3: a quote opens here and is not closed where its cell ends. "
        'Close it, and double each " that is part of a cell.'),
    ),
    "an open quote in a later line of its row": (
        TABLE + b'"a\nb","c\n', Wanted(),
        (", line 4: a quote opens here (its row begins in line 3) and is not closed where its cell "
        'ends. Close it, and double each " that is part of a cell.'),
    ),
    "a large cell": (
        TABLE + b"http://a.org/2," + b"x" * 200_000, Wanted(),
        (", line 3: a cell of more than 131,072 characters (field larger than field limit "
        "(131072)). Remove that column."),
    ),
    "JSON that ends early": (
        f'["{GOOD}", '.encode(), Wanted(),
        ", row 2: the file ends before its array does, so it is incomplete.",
    ),
    "no JSON": (
        f'["{GOOD}", http]'.encode(), Wanted(), ", row 2: invalid JSON: Expecting value.",
    ),
    "something behind an array": (
        f'["{GOOD}"] 1'.encode(), Wanted(),
        (", row 2: there is more text after the end of the array. A JSON file is one array. "
        "Write JSONL for one record per line."),
    ),
    "a missing comma": (
        f'["{GOOD}" "{GOOD}"]'.encode(), Wanted(),
        ", row 1: invalid JSON: a comma or ] is missing after it.",
    ),
    "deep JSON": (b"[" * 100_000, Wanted(), None),
    "a record without columns": (
        f'["{GOOD}"]'.encode(), Wanted("url"),
        (", row 1: a text, so there are no columns for --column and --id-column. Write objects, or "
        "leave these options out."),
    ),
    "truncated gzip": (
        gzip.compress(TABLE * 1000)[:-9], Wanted(),
        " is a gzip file that ends too early, so it is incomplete. Copy or compress it again.",
    ),
    "truncated zstd": (
        zstd.compress(TABLE * 1000)[:-9], Wanted(),
        " is a zstd file that ends too early, so it is incomplete. Copy or compress it again.",
    ),
    "a second frame that is truncated": (
        zstd.compress(TABLE) + zstd.compress(b"http://a.org/2,2\n")[:-3], Wanted(),
        " is a zstd file that ends too early, so it is incomplete. Copy or compress it again.",
    ),
    "damaged gzip": (
        gzip.compress(TABLE)[:-8] + bytes(8), Wanted(),
        re.compile(" is a damaged gzip file: CRC check failed.*Copy or compress it again."),
    ),
    "damaged zstd": (
        zstd.compress(TABLE)[:6] + b"\xff" * 20, Wanted(),
        re.compile(" is a damaged zstd file: .* Copy or compress it again."),
    ),
    "garbage behind gzip": (
        gzip.compress(TABLE) + b"garbage", Wanted(),
        re.compile(" is a damaged gzip file: Not a gzipped file.*"),
    ),
    "a spreadsheet": (
        b"PK\x03\x04" + bytes(20), Wanted(),
        " is a ZIP file or a spreadsheet. Unpack it, or save the sheet as CSV.",
    ),
    "a picture": (
        b"\xff\xd8\xff\xe0" + bytes(20), Wanted(),
        " is a JPEG image. To submit it, give it a name that ends with .jpg.",
    ),
    "Parquet that ends early": (
        b"PAR1" + bytes(100), Wanted(),
        re.compile(" is a Parquet file that cannot be read: .*Copy or write it again."),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WHOLE)
def test_a_list_that_cannot_be_read_is_reported_with_the_place(tmp_path: Path, what: str) -> None:
    data, wanted, expected = WHOLE[what]
    path = tmp_path / "list"
    path.write_bytes(data)
    with pytest.raises(SourceError) as it:
        list(read_runs([str(path)], reading=Reading(wanted)))
    told = str(it.value).removeprefix(str(path))
    if isinstance(expected, re.Pattern):
        assert expected.fullmatch(told), told
    elif expected is not None:
        assert told == expected


# Bytes, and the reports about their bad lines.
LINES = {
    "ragged rows": (
        TABLE + b"http://a.org/2\nhttp://a.org/3,3,4\n",
        [
            "line 3: http://a.org/2: 1 cell, but the heading has 2",
            "line 4: http://a.org/3: 3 cells, but the heading has 2",
        ],
    ),
    "an empty cell": (TABLE + b",2\n", ["line 3, column 'url': empty"]),
    "another scheme": (
        TABLE + b"ftp://a.org/2,2\n",
        ["line 3, column 'url': ftp://a.org/2: ftp: is not one of http, https, file"],
    ),
    "a long id": (
        TABLE + b"http://a.org/2," + b"x" * 1025,
        ["line 3, column 'url': http://a.org/2: an id of 1025 characters; the limit is 1024"],
    ),
    "a path": (
        TABLE + b"/my/cat 1.jpg,2\n",
        ["line 3, column 'url': /my/cat 1.jpg: a path; write file:///my/cat%201.jpg"],
    ),
    "no JSON on a line": (
        f'{{"url": "{GOOD}"}}\n{{"url": \n\n'.encode(),
        [
            ('line 2: {"url": : invalid JSON: unexpected end of data. '
            "Write an object, or a text in quotes, on each line")
        ],
    ),
    "values that are no records": (
        f'{{"url": "{GOOD}"}}\n["x"]\n{{"uri": 1}}\n{{"url": 7}}\n'.encode(),
        [
            "line 2, column 'url': a list, not an object",
            "line 3, column 'url': no 'url' in this object",
            "line 4, column 'url': an integer, not a text",
        ],
    ),
    "NUL in an escape": (
        b'[{"url": "http://a.org/\\u0000"}]',
        [
            ("row 1, column 'url': http://a.org/\\x00: "
            "a space, a control character or not UTF-8; escape it, such as %20")
        ],
    ),
    "half of a surrogate pair": (
        b'[{"url": "http://a.org/\\ud800"}]',
        [
            ("row 1, column 'url': http://a.org/\\ud800: "
            "text that UTF-8 cannot encode, or with a NUL")
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", LINES)
def test_bad_lines_are_reported_with_value_and_reason(tmp_path: Path, what: str) -> None:
    data, expected = LINES[what]
    path = tmp_path / "list"
    path.write_bytes(data)
    reading = Reading(Wanted("url", "id" if b",id" in data else None))
    with pytest.raises(RefusedError) as it:
        list(check(read_runs([str(path)], reading=reading), []))
    heading, *reports = str(it.value).splitlines()
    assert heading.endswith("refused, so nothing is submitted:")
    assert reports == [f"  {path}, {report}" for report in expected]


@pytest.mark.parametrize("kind", ["binary", "struct", "list"])
def test_parquet_columns_without_text_are_refused_by_name(tmp_path, kind) -> None:
    import pyarrow as pa
    from pyarrow.parquet import read_schema, write_table

    columns = {
        "binary": pa.array([b"x"]),
        "struct": pa.array([{"bytes": b"x", "path": "a.jpg"}]),
        "list": pa.array([["http://a.org/1"]]),
    }
    path = tmp_path / "list.parquet"
    write_table(pa.table({"image": columns[kind], "url": ["http://a.org/1"]}), path)
    stored = read_schema(path).field("image").type
    for wanted, option, takes in (
        (Wanted("image"), "--column", "text"),
        (Wanted("url", "image"), "--id-column", "text or integers"),
    ):
        with pytest.raises(SourceError) as it:
            list(read_runs([str(path)], reading=Reading(wanted)))
        assert str(it.value) == (
            f"{path}, column 'image': of type {stored}, but {option} takes {takes}. "
            "Columns of text: 'url'."
        )


def test_a_missing_parquet_column_is_reported_with_the_existing_ones(tmp_path) -> None:
    import pyarrow as pa
    from pyarrow.parquet import write_table

    path = tmp_path / "list.parquet"
    write_table(pa.table({"link": ["http://a.org/1"], "n": [1]}), path)
    with pytest.raises(SourceError, match=r"no column 'url'.* Columns: 'link', 'n'\."):
        list(read_runs([str(path)], reading=Reading(Wanted("url"))))


def test_a_bad_line_is_reported_even_if_a_fault_follows() -> None:
    data = b"url\nftp://a.org/1\n" + b"x" * 2_000_000
    with pytest.raises(RefusedError, match=r"line 2, column 'url': ftp://a.org/1"):
        list(check(read_runs(["-"], io.BytesIO(data)), []))


def test_a_file_is_read_by_its_content_even_if_its_name_is_wrong(tmp_path) -> None:
    (tmp_path / "list.parquet.gz").write_bytes(json.dumps([GOOD]).encode())
    (run,) = read_runs([str(tmp_path / "list.parquet.gz")])
    assert run.uris == [GOOD]
