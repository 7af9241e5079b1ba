"""What SOURCE arguments give, and what is refused."""

import io
import os
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import SourceError
from contract.uris import refusal
from producer.submit.check import check
from producer.submit.sources.entry import Entry, Run, quoted, shorten
from producer.submit.sources.opening import BLOCK_BYTES
from producer.submit.sources.read import named_paths, read_runs, read_sources
from producer.submit.sources.text import MAX_LINE_BYTES


def uris(*sources: object) -> list[str]:
    return [entry.uri for entry in read_sources([str(source) for source in sources])]


def refused(*entries: str, file_roots: tuple[Path, ...] = ()) -> str:
    given = [Entry(uri, None, "list.txt", line) for line, uri in enumerate(entries, start=1)]
    with pytest.raises(SourceError) as it:
        list(check(given, file_roots))
    return str(it.value)


def test_a_text_with_a_scheme_is_a_uri() -> None:
    assert uris("https://a.org/1", "http://b.org/2") == ["https://a.org/1", "http://b.org/2"]


def test_a_list_may_have_comments_blank_lines_and_ids(tmp_path) -> None:
    text = "\ufeffhttp://a.org/1\tmine 1\r\n\r\n  # http://a.org/no\n \nhttp://a.org/ü\t\nhttp://a.org/3"
    (tmp_path / "list.txt").write_bytes(text.encode())
    source = str(tmp_path / "list.txt")
    assert list(read_sources([source])) == [
        Entry("http://a.org/1", "mine 1", source, 1),
        Entry("http://a.org/ü", None, source, 5),
        Entry("http://a.org/3", None, source, 6),
    ]


def test_a_port_that_is_not_permitted_is_refused_with_its_line() -> None:
    entries = [
        Entry(f"http://a.org{port}/1", None, "list.txt", line)
        for line, port in enumerate(("", ":443", ":22"), start=1)
    ]
    with pytest.raises(SourceError, match=r"list.txt, line 3: http://a.org:22/1: 22 is not in"):
        list(check(entries, [], fetch_ports=(80, 443)))


def test_standard_input_is_read_as_a_list(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"http://a.org/1\tx\n")))
    assert list(read_sources(["-"])) == [Entry("http://a.org/1", "x", "standard input", 1)]


def test_a_folder_gives_only_its_images_sorted_by_name(tmp_path) -> None:
    folder = tmp_path / "my photos"
    (folder / "b" / "deep").mkdir(parents=True)
    (folder / "like.jpg").mkdir()
    for name in ("c.JPEG", "a#1.png", "b/2.webp", "b/deep/3.tiff", "notes.txt", "b/4.mp4"):
        (folder / name).touch()
    (folder / "z.gif").symlink_to(folder / "gone.gif")  # the worker will report it as missing
    (folder / "round").symlink_to(folder)
    base = folder.as_uri()
    assert base.endswith("my%20photos")
    assert uris(folder) == [
        f"{base}/a%231.png",
        f"{base}/b/2.webp",
        f"{base}/b/deep/3.tiff",
        f"{base}/c.JPEG",
        f"{base}/z.gif",
    ]


def test_a_link_that_cannot_be_followed_is_left_to_the_worker(tmp_path) -> None:
    (tmp_path / "a.jpg").symlink_to("long" * 100)
    assert [entry.uri for entry in read_sources([str(tmp_path)])] == [(tmp_path / "a.jpg").as_uri()]


def test_a_link_replaced_during_the_lookup_is_looked_up_again(tmp_path, monkeypatch) -> None:
    path, follow = tmp_path / "a.jpg", os.readlink
    path.symlink_to(tmp_path / "other.jpg")

    def replace_and_follow(*arguments, **options):
        if path.is_symlink():
            path.unlink()
            path.touch()
        return follow(*arguments, **options)

    monkeypatch.setattr(os, "readlink", replace_and_follow)
    (entry,) = read_sources([path.as_uri()])
    assert (entry.uri, entry.root) == (path.as_uri(), path)


def test_a_file_name_that_is_not_utf_8_survives_in_its_uri(tmp_path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).touch()
    (given,) = check(read_sources([str(tmp_path)]), [tmp_path])
    assert given.uri == f"{tmp_path.as_uri()}/%FF.png"


@pytest.mark.parametrize("source", ["../pets/cat.jpg", "../pets", "../pets/../pets", ".."])
def test_a_path_with_dots_gives_the_same_uri_as_without(tmp_path, monkeypatch, source) -> None:
    for folder in ("pets", "here"):
        (tmp_path / folder).mkdir()
    (tmp_path / "pets" / "cat.jpg").touch()
    monkeypatch.chdir(tmp_path / "here")
    assert uris(source) == [(tmp_path / "pets" / "cat.jpg").as_uri()]
    assert named_paths([source]) == [Path(os.path.normpath(tmp_path / "here" / source))]


def test_an_image_file_is_not_read_as_a_list(tmp_path, monkeypatch) -> None:
    (tmp_path / "cat.jpg").write_bytes(b"\xff\xd8\xff")
    monkeypatch.chdir(tmp_path)
    assert uris("cat.jpg") == [(tmp_path / "cat.jpg").as_uri()]


@pytest.mark.parametrize("value", ["no-such-thing", "example.org/cat.jpg", "x" * 5000])
def test_an_argument_that_names_nothing_is_reported(value) -> None:
    with pytest.raises(
        SourceError, match=r"does not exist|cannot be read: File name too long"
    ) as it:
        uris(value)
    assert value[:50] in str(it.value)
    assert len(str(it.value)) < 300


def test_an_empty_argument_is_not_the_current_folder() -> None:
    with pytest.raises(SourceError, match="A source is empty"):
        uris("")


def test_every_source_is_checked_before_the_first_is_read() -> None:
    with pytest.raises(SourceError, match="nothing-here"):
        next(read_sources(["http://a.org/1", "nothing-here"]))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"http://a.org/1\n\xff\xd8\xff\xe0", r"line 2: byte 1 \(0xFF\) is not UTF-8"),
        ("http://a.org/1\n".encode("utf-16-le"), "line 1: binary data"),
        (b"http://a.org/1\nabc\x00def", "line 2: binary data"),
        (b"x" * (MAX_LINE_BYTES + 1), "line 1: longer than 65,536 bytes"),
    ],
)
def test_a_file_that_is_not_text_is_an_error_with_its_line(tmp_path, content, reason) -> None:
    (tmp_path / "list").write_bytes(content)
    with pytest.raises(SourceError, match=reason) as it:
        uris(tmp_path / "list")
    assert str(tmp_path / "list") in str(it.value)


LONG_LIST = [f"http://a.org/{n:060d}.jpg" for n in range(BLOCK_BYTES // 20)]


def test_a_long_list_keeps_its_order_and_line_numbers(tmp_path) -> None:
    lines = [f" {uri}\tid {n} \r" if n % 2 else uri for n, uri in enumerate(LONG_LIST)]
    lines[BLOCK_BYTES // 100] = "# ü"
    (tmp_path / "list.txt").write_bytes("\n".join(lines).encode())
    source = str(tmp_path / "list.txt")
    assert list(read_sources([source])) == [
        Entry(uri, f"id {n}" if n % 2 else None, source, n + 1)
        for n, uri in enumerate(LONG_LIST)
        if n != BLOCK_BYTES // 100
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"http://a.org/\xfc", r"byte 14 \(0xFC\) is not UTF-8"),
        (b"http://a.org/\x00", "binary data"),
        (b"x" * (MAX_LINE_BYTES + 1), "longer than 65,536 bytes"),
    ],
)
def test_a_bad_line_in_a_long_list_is_reported_after_the_lines_before_it(line, reason) -> None:
    at = len(LONG_LIST) // 2
    lines = [uri.encode() for uri in LONG_LIST]
    entries = read_sources(["-"], io.BytesIO(b"\n".join([*lines[:at], line, *lines[at:]])))
    assert [next(entries).uri for _ in range(at)] == LONG_LIST[:at]
    with pytest.raises(SourceError, match=f"standard input, line {at + 1}: {reason}"):
        next(entries)


def test_a_line_from_a_pipe_is_returned_before_the_next_one_is_written() -> None:
    read, write = os.pipe()
    with os.fdopen(read, "rb") as pipe, os.fdopen(write, "wb", buffering=0) as writer:
        entries = read_sources(["-"], pipe)
        for n in range(3):
            writer.write(b"http://a.org/%d\n" % n)
            assert next(entries).line == n + 1


def test_at_most_ten_refusals_are_reported_with_their_lines() -> None:
    lines = ["http://a.org/1", "ftp://a.org/2", "no-scheme", *["data:x"] * 20]
    report = refused(*lines).splitlines()
    assert report[0] == "More than 10 URIs are refused, so nothing is submitted:"
    assert report[1] == "  list.txt, line 2: ftp://a.org/2: ftp: is not one of http, https, file"
    assert "line 3: no-scheme: no scheme" in report[2]
    assert len(report) == 11


def test_the_search_for_more_refusals_ends_even_in_an_endless_list() -> None:
    endless = (Entry("http://a.org/1", None, "-", n) for n in count(1))
    given = iter([Entry("ftp://a.org/", None, "-", 0)])
    with pytest.raises(SourceError, match="A URI is refused"):
        list(check((entry for part in (given, endless) for entry in part), []))


def test_the_refusal_of_a_path_says_how_to_write_it() -> None:
    assert "a path; write file:///my/cat%201.jpg" in refused("/my/cat 1.jpg")
    assert "write its absolute form as file:///" in refused("./cat.jpg")


def test_the_refusal_of_a_file_outside_the_roots_names_the_setting(tmp_path) -> None:
    (tmp_path / "in").mkdir()
    inside = Entry((tmp_path / "in" / "x.jpg").as_uri(), None, "-", 1)
    assert list(check([inside], [tmp_path / "in"])) == [inside]
    report = refused((tmp_path / "in/../x.jpg").as_uri(), file_roots=(tmp_path / "in",))
    assert report.endswith(": not under any of RESNEXT_FILE_ROOTS")


def test_texts_that_no_column_can_hold_are_refused() -> None:
    assert "UTF-8" in refused("http://a.org/\udcff")
    with pytest.raises(SourceError, match="NUL"):
        list(check([Entry("http://a.org/", "a\x00b", "image 1", 0)], []))
    with pytest.raises(SourceError, match="the limit is 1024"):
        list(check([Entry("http://a.org/", "x" * 1025, "image 1", 0)], []))


def test_a_value_in_a_message_is_short_and_cannot_control_a_terminal() -> None:
    assert shorten("x" * 500) == "x" * 100 + "…"
    assert shorten("\x1b[2Jhttp://a.org") == r"\x1b[2Jhttp://a.org"
    assert quoted("a\nb") == r"'a\nb'", "once, and in one pair of quotes"
    assert quoted("it's") == '"it\'s"'


def test_objects_are_accepted_if_their_store_is_enabled() -> None:
    entries = [Entry("s3://pictures/a.jpg", None, "list.txt", 3)]
    assert list(check(entries, [], object_stores=["s3"])) == entries
    with pytest.raises(SourceError, match=r"list.txt, line 3: .*RESNEXT_OBJECT_STORES"):
        list(check(entries, [], object_stores=["gs"]))


def test_the_named_paths_are_known_before_anything_is_read(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name in ("cat.jpg", "list.txt"):
        (tmp_path / name).touch()
    files = [(tmp_path / name).as_uri() for name in ("dog.png", "no suffix")]
    named = named_paths(["folder", "cat.jpg", "list.txt", "-", *files, "https://a.org/b.jpg"])
    assert named == [tmp_path / name for name in ("folder", "cat.jpg", "dog.png", "no suffix")]
    assert named_paths(["x" * 5000, "file://elsewhere/a.jpg"]) == []


PLAIN = st.integers(0, 99).map("https://a-{0}.example.org/{0}.jpg?x={0}".format)
ODD = st.sampled_from(
    [
        "",
        "  ",
        "# http://a.org/no",
        "http://a.org/1\tmine",
        " http://a.org/2",
        "http://a.org/3\r",
        "http://a.org/ü",
        "http://a.org:8080/4",
        "http://A.org/5",
        "http://127.0.0.1/6",
        'http://a.org/"7"',
        "http://a.org/8\\9",
        "http://a.org/a b",
        "http://me:pw@a.org/",
        "http://a.org/\x7f",
        "http://a.org/\u2028",
        "http://a.org/\x0b",
        "http://a.org./",
        "http://a.o",
        "http://" + 9 * "a." + "org/",
        "http://a.org/" + 7_000 * "x",
        "http://a.org/" + 7_001 * "x",
        "ftp://a.org/",
    ]
)


@given(st.lists(st.one_of(PLAIN, ODD)), st.booleans())
def test_runs_give_the_same_as_lines_read_one_by_one(lines, ends) -> None:
    text = "\n".join(lines) + "\n" * ends
    apart = []
    for image in read_runs(["-"], io.BytesIO(text.encode())):
        if isinstance(image, Run):
            assert all(refusal(uri, ()) is None for uri in image.uris)
            apart += [(uri, None, line) for line, uri in enumerate(image.uris, start=image.line)]
        else:
            apart.append((image.uri, image.ref, image.line))
    assert apart == list(one_by_one(text))


def one_by_one(text: str) -> Iterator[tuple[str, str | None, int]]:
    for number, line in enumerate(text.split("\n"), start=1):
        said = line.strip()
        if said and not said.startswith("#"):
            uri, _, ref = said.partition("\t")
            yield uri.rstrip(), ref.strip() or None, number


def test_plain_lines_form_runs_and_other_lines_stand_alone() -> None:
    lines = ["http://a.org/1", "https://b.org/2", "http://c.org/3\tc", "http://d.org/4"]
    read = read_runs(["-"], io.BytesIO("\n".join(lines).encode()))
    assert list(read) == [
        Run(["http://a.org/1", "https://b.org/2"], "standard input", 1),
        Entry("http://c.org/3", "c", "standard input", 3),
        Run(["http://d.org/4"], "standard input", 4),
    ]


@pytest.mark.parametrize(("ports", "line"), [((443,), 1), ((80,), 2), ((443, 80), 3)])
def test_runs_do_not_bypass_the_check_of_ports(ports, line) -> None:
    text = b"http://a.org/1\nhttps://a.org/2\nftp://a.org/3"
    with pytest.raises(SourceError, match=f"standard input, line {line}: "):
        list(check(read_runs(["-"], io.BytesIO(text)), [], fetch_ports=ports))


def test_a_refusal_after_a_run_has_the_right_line() -> None:
    text = b"http://a.org/1\nhttp://a.org/2\nftp://a.org/3\nhttp://a.org/4\nftp://a.org/5\n"
    with pytest.raises(SourceError) as it:
        list(check(read_runs(["-"], io.BytesIO(text)), []))
    assert [report.split(":")[0] for report in str(it.value).splitlines()[1:]] == [
        "  standard input, line 3",
        "  standard input, line 5",
    ]
