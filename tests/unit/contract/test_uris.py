"""Which URIs are accepted and which are refused, without any request on the network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract import uris
from contract.objects import ObjectName, parse_object
from contract.uris import MAX_URI_CHARS, path_of, refusal, refusal_of_port


@pytest.mark.parametrize(
    "uri",
    [
        "http://example.org",
        "https://example.org/a.jpg?size=1&b=%20#top",
        "HTTPS://EXAMPLE.ORG/A.JPG",
        "http://127.0.0.1:8000/a.jpg",
        "http://[2001:db8::1]:8080/a.jpg",
        "http://münchen.example/straße.jpg",
        "http://a_b.example./a\\b%2e.jpg",
        "http://[fe80::1%25eth0]/a.jpg",
        "http://example.org/" + "a" * (MAX_URI_CHARS - len("http://example.org/")),
    ],
)
def test_good_uris_are_accepted(uri) -> None:
    assert refusal(uri, ()) is None


@given(st.from_regex(uris._PLAIN, fullmatch=True))
def test_the_quick_check_accepts_only_what_the_full_check_accepts(uri) -> None:
    assert uris._refusal_of_text(uri) is None
    assert uris._refusal_of_web(uri) is None


@pytest.mark.parametrize(
    ("uri", "code", "words"),
    [
        ("", "blocked_scheme", "no scheme"),
        ("example.org/a.jpg", "blocked_scheme", "no scheme"),
        ("//example.org/a.jpg", "blocked_scheme", "no scheme"),
        ("/data/a.jpg", "blocked_scheme", "no scheme"),
        ("ftp://example.org/a.jpg", "blocked_scheme", "ftp: is not one of http, https, file"),
        ("data:image/png;base64,AAAA", "blocked_scheme", "data:"),
        ("C:\\pictures\\a.jpg", "blocked_scheme", "C:"),
        ("javascript:alert(1)", "blocked_scheme", "javascript:"),
        ("http://", "bad_uri", "no host"),
        ("http:///a.jpg", "bad_uri", "no host"),
        ("http://:80/a.jpg", "bad_uri", "no host"),
        ("http://example.org:port/", "bad_uri", "the port is not a number"),
        ("http://example.org:65536/", "bad_uri", "the port is not a number"),
        ("http://example.org:0/", "bad_uri", "port 0"),
        ("http://[::1/a.jpg", "bad_uri", "IPv6"),
        ("http://evil\\.example.org/", "bad_uri", "a backslash in the host"),
        ("http://example.org:80\\a/", "bad_uri", "the port is not a number"),
        ("http://example%2eorg/", "bad_uri", "a % in the host"),
        ("http://127%2e0%2e0%2e1/", "bad_uri", "a % in the host"),
        ("http://a,b.example/", "bad_uri", "',' in the host"),
        ("http://*.example/", "bad_uri", "'*' in the host"),
        ("http://[127.0.0.1]/", "bad_uri", "IPv6"),
        ("http://[v1.fe80]/", "bad_uri", "no IPv6 address"),
        ("http://[::1%25]/", "bad_uri", "no IPv6 address"),
        ("http://me:secret@example.org/", "bad_uri", "password"),
        ("http://example.org\\@127.0.0.1/", "bad_uri", "password"),
        ("http://me:secret@exa\u2100mple.org/", "bad_uri", "a Unicode lookalike"),
        ("http://example.org:secret/", "bad_uri", "the port is not a number"),
        ("http://[secret]/", "bad_uri", "IPv6"),
        ("http://example.org/a b.jpg", "bad_uri", "a space"),
        ("http://example.org/a\r\nHost: other", "bad_uri", "a space"),
        ("http://example.org/a\x00.jpg", "bad_uri", "control"),
        ("http://example.org/\udcff.jpg", "bad_uri", "UTF-8"),
        ("http://example.org/" + "a" * MAX_URI_CHARS, "bad_uri", "8211 characters"),
    ],
)
def test_other_uris_are_refused_with_the_reason(uri, code, words) -> None:
    failure = refusal(uri, ())
    assert failure is not None
    assert failure.code == code
    assert words in failure.detail
    assert "secret" not in failure.detail


@pytest.mark.parametrize(
    ("uri", "refused"),
    [
        ("http://example.org/a.jpg", False),
        ("https://example.org/a.jpg", False),
        ("HTTPS://example.org:/a.jpg", False),
        ("http://example.org:443/a.jpg", False),
        ("http://example.org:8080/a.jpg", True),
        ("https://[2001:db8::1]:8443/a.jpg", True),
        ("file:///data/a.jpg", False),
    ],
)
def test_if_ports_are_set_others_are_refused(uri, refused) -> None:
    assert refusal_of_port(uri, ()) is None
    failure = refusal_of_port(uri, (80, 443))
    assert (failure is not None and failure.code == "blocked_port") == refused


@pytest.mark.parametrize(
    "uri",
    [
        "file:a.jpg",
        "file://elsewhere/data/a.jpg",
        "file:///data/a.jpg?x",
        "file:///data/a.jpg#x",
        "file:///data/%00.jpg",
    ],
)
def test_a_file_uri_that_is_no_path_of_this_machine_is_a_bad_uri(uri) -> None:
    failure = refusal(uri, (Path("/data"),))
    assert failure is not None
    assert failure.code == "bad_uri"


def test_only_files_under_the_roots_are_accepted(tmp_path) -> None:
    root, other = tmp_path / "root", tmp_path / "root-2"
    assert refusal((root / "a.jpg").as_uri(), (root,)) is None
    assert refusal((root / "b" / "a.jpg").as_uri(), (other, root)) is None
    for path in (other / "a.jpg", tmp_path / "a.jpg", Path("/etc/passwd")):
        failure = refusal(path.as_uri(), (root,))
        assert failure is not None
        assert failure.code == "blocked_path"


def test_without_roots_no_file_is_accepted(tmp_path) -> None:
    failure = refusal((tmp_path / "a.jpg").as_uri(), ())
    assert failure is not None
    assert failure.code == "blocked_path"
    assert "RESNEXT_FILE_ROOTS" in failure.detail


@pytest.mark.parametrize("way_out", ["../a.jpg", "%2e%2e/a.jpg", "b/../../a.jpg"])
def test_dots_do_not_lead_out_of_a_root(tmp_path, way_out) -> None:
    root = tmp_path / "root"
    failure = refusal(f"{root.as_uri()}/{way_out}", (root,))
    assert failure is not None
    assert failure.code == "blocked_path"


def test_links_do_not_lead_out_of_a_root(tmp_path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    failure = refusal((root / "link" / "a.jpg").as_uri(), (root,))
    assert failure is not None
    assert failure.code == "blocked_path"


def test_a_root_may_be_a_link_itself(tmp_path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "real")
    assert refusal((tmp_path / "root" / "a.jpg").as_uri(), (tmp_path / "root",)) is None


def test_a_link_to_itself_is_refused_without_an_exception(tmp_path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    failure = refusal((tmp_path / "loop" / "a.jpg").as_uri(), (tmp_path / "root",))
    assert failure is not None
    assert failure.code in ("bad_uri", "blocked_path")  # depends on the version of Python


@pytest.mark.parametrize("name", [b"a b.jpg", "ü?#%.jpg".encode(), b"\xff\xfe.jpg"])
def test_the_uri_of_a_file_leads_back_to_it_whatever_its_name(tmp_path, name) -> None:
    path = tmp_path / os.fsdecode(name)
    assert path_of(path.as_uri()) == path
    assert path_of(path.as_uri().replace("file://", "file://localhost")) == path


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("s3://my.bucket-1/a.jpg", ObjectName("s3", "my.bucket-1", "a.jpg")),
        ("GS://pictures/a/b%20c.jpg", ObjectName("gs", "pictures", "a/b c.jpg")),
        ("s3://pictures/%3F%23%2520", ObjectName("s3", "pictures", "?#%20")),
        ("s3://pictures/ü/.a/b..c", ObjectName("s3", "pictures", "ü/.a/b..c")),
    ],
)
def test_an_object_is_named_by_its_bucket_and_key(uri, named) -> None:
    assert refusal(uri, (), ("s3", "gs")) is None
    assert parse_object(uri) == named


@pytest.mark.parametrize(
    "uri",
    [
        "s3:pictures/a.jpg",
        "s3://pictures",
        "s3://pictures/",
        "s3:///a.jpg",
        "s3://Pictures/a.jpg",
        "s3://no/a.jpg",
        "s3://pictures@evil.example/a.jpg",
        "s3://pictures:80/a.jpg",
        "s3://127.0.0.1:80/a.jpg",
        "s3://pictures/../others/a.jpg",
        "s3://pictures/%2e%2e/others/a.jpg",
        "s3://pictures/./a.jpg",
        "s3://pictures//a.jpg",
        "s3://pictures/a.jpg/",
        "s3://pictures/a.jpg?versionId=1",
        "s3://pictures/a.jpg#b",
        "s3://pictures/a%0d%0aHost:b",
        "s3://pictures/a%00",
        "s3://pictures/%ff",
        "s3://pictures/a b",
    ],
)
def test_a_uri_that_names_no_object_is_a_bad_uri(uri) -> None:
    failure = refusal(uri, (), ("s3",))
    assert failure is not None
    assert failure.code == "bad_uri"


@pytest.mark.parametrize(
    ("uri", "enabled"), [("s3://pictures/a", ()), ("gs://pictures/a", ("s3",))]
)
def test_an_object_store_is_refused_unless_it_is_enabled(uri, enabled) -> None:
    failure = refusal(uri, (), enabled)
    assert failure is not None
    assert failure.code == "blocked_scheme"
    assert failure.detail == f"{uri[:2]}: is not enabled by RESNEXT_OBJECT_STORES"
