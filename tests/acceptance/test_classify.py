"""`resnextq classify`, as a user types it: no broker, no database, one line per image."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.installation import RESNEXTQ, Installation, environment
from tests.pictures.demo import PICTURES

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

SMALL = {"RESNEXT_MODEL": "resnext_tiny_imagenet", "RESNEXT_PRECISION": "fp32"}
# Opening one of these would fail with an error.
NOWHERE = {
    "RESNEXT_BROKER_URL": "redis://127.0.0.1:9/0",
    "RESNEXT_DATABASE_URL": "postgresql://me@127.0.0.1:9/no",
}


@pytest.fixture
def here(tmp_path: Path) -> Installation:
    """A machine without servers, and without folders for file URIs."""
    return Installation(tmp_path, environment(tmp_path, RESNEXT_FILE_ROOTS="", **SMALL, **NOWHERE))


def records(lines: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.splitlines()]


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    (folder / "nested").mkdir(parents=True)
    shutil.copy(PICTURES / "coffee.jpg", folder)
    shutil.copy(PICTURES / "chelsea.jpg", folder / "nested")
    shutil.copy(PICTURES / "truncated.jpg", folder)
    (folder / "notes.txt").write_text("http://a.example/never.jpg")
    (folder / "out.jpg").symlink_to(PICTURES / "red-panda.png")
    return folder


def test_classify_takes_tables_and_patterns_as_submit_does(here, web, album, tmp_path) -> None:
    (tmp_path / "list.csv").write_text(f"sku,url\nh1,{web}/red-panda.png\n")
    sources = [str(tmp_path / "list.csv"), str(album / "**" / "c*.jpg"), str(album)]
    done = here.call("classify", "--json", *sources, "--id-column", "sku")
    assert done.returncode == 0, done.stderr
    found = records(done.stdout)
    assert [(record["uri"], record.get("ref"), record["status"]) for record in found[:3]] == [
        (f"{web}/red-panda.png", "h1", "classified"),
        ((album / "coffee.jpg").as_uri(), None, "classified"),
        ((album / "nested" / "chelsea.jpg").as_uri(), None, "classified"),
    ]
    assert f"{album}: 1 file left out: not an image by its extension (.txt 1)" in done.stderr


def test_every_kind_of_source_gives_its_images_in_order(here, web, album, tmp_path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text(
        f"{web}/red-panda.png\tmine\n"
        "# nothing\n"
        "http://127.0.0.1:9/closed.jpg\n"
        f"{(PICTURES / 'bison.jpg').as_uri()}\n"
        f"http://a.example/{'x' * 9000}\n"
    )
    sources = [
        *(str(PICTURES / "chelsea.jpg"), str(album), f"{web}/goldfish.jpg", str(listed)),
        *("-", (PICTURES / "arch.jpg").as_uri()),
    ]
    done = here.call("classify", "--json", *sources, stdin=f"{web}/gone.jpg\nftp://a.example/1\n")
    assert done.returncode == 0, done.stderr
    found = records(done.stdout)
    assert [record["position"] for record in found] == list(range(13))
    expected = [
        (str(PICTURES / "chelsea.jpg"), None),
        (str(album / "coffee.jpg"), None),
        (str(album / "nested/chelsea.jpg"), None),
        (str(album / "out.jpg"), "blocked_path"),
        (str(album / "truncated.jpg"), "truncated"),
        (f"{web}/goldfish.jpg", None),
        (f"{web}/red-panda.png", None),
        ("http://127.0.0.1:9/closed.jpg", "connect"),
        (str(PICTURES / "bison.jpg"), "blocked_path"),
        (f"http://a.example/{'x' * 9000}", "bad_uri"),
        (f"{web}/gone.jpg", "http_404"),
        ("ftp://a.example/1", "blocked_scheme"),
        (str(PICTURES / "arch.jpg"), None),
    ]
    assert [
        (record["uri"].removeprefix("file://"), record.get("error", {}).get("code"))
        for record in found
    ] == expected
    assert [record.get("ref") for record in found].count("mine") == 1
    assert found[6]["ref"] == "mine"
    assert [record["attempts"] for record in found] == [3 if n == 7 else 1 for n in range(13)]
    assert done.stderr.count("licence") == 1


@on_sqlite
def test_classify_prints_the_same_json_as_results(installation, web) -> None:
    """The same picture and the same dead link go through the queue and through `classify`."""
    installation.environment |= SMALL
    uris = [f"{web}/chelsea.jpg", f"{web}/gone.jpg"]
    job = installation.submit(*uris)
    installation.start("dispatch")
    installation.start("worker")
    installation.wait(job)
    queued = installation.results(job)
    direct = records(installation.run("classify", "--json", *uris))
    scores = [[guess.pop("score") for guess in found[0]["top5"]] for found in (queued, direct)]
    assert scores[1] == pytest.approx(scores[0], abs=1e-4)
    assert direct == queued
    assert list(direct[0]) == list(queued[0])


def test_each_image_has_a_line_and_failures_set_the_exit_status(here, web) -> None:
    sources = [str(PICTURES / "chelsea.jpg"), str(PICTURES / "words.jpg"), f"{web}/gone.jpg"]
    done = here.call("classify", *sources, "--fail-on-error")
    assert done.returncode == 1, done.stderr
    chelsea, words, gone = done.stdout.splitlines()
    uri, _, classes = chelsea.partition("\t")
    assert uri == (PICTURES / "chelsea.jpg").as_uri()
    assert classes.count("%, ") == 4
    assert words.endswith("\tnot_an_image: no image format begins like this")
    assert gone == f"{web}/gone.jpg\thttp_404: Not Found"
    assert "licence of resnext_tiny_imagenet/random: none: drawn, not trained" in done.stderr
    assert here.call("classify", sources[0], "--fail-on-error").returncode == 0


def test_a_private_address_is_blocked_unless_it_is_allowed(here, web) -> None:
    del here.environment["RESNEXT_FETCH_ALLOW"]
    (found,) = records(here.run("classify", "--json", f"{web}/chelsea.jpg"))
    assert found["error"]["code"] == "blocked_address"


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["gone.jpg"], 2, "'gone.jpg' does not exist"),
        (["http://a.example/", "--model", "resnet"], 2, "Did you mean"),
        (["http://a.example/", "--weights", "none.pth"], 3, "none.pth"),
        (["http://a.example/", "--batch", "0"], 2, "--batch"),
    ],
)
def test_bad_arguments_are_refused_and_nothing_is_printed(here, arguments, status, words) -> None:
    done = here.call("classify", *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def waiting(here, web) -> Iterator[subprocess.Popen[bytes]]:
    """A `classify` that has printed one result and waits for the next URI on standard input."""
    process = subprocess.Popen(
        [RESNEXTQ, "classify", "--json", "-"],
        env=here.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdin.write(f"{web}/chelsea.jpg\n".encode())
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["status"] == "classified"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_classify_while_it_waits_for_input(waiting, number) -> None:
    """Each line is printed at once, and then `classify` waits for the next URI."""
    waiting.send_signal(number)
    assert waiting.wait(timeout=300) == 128 + number
    told = waiting.stderr.read().decode()
    assert "Traceback" not in told
    assert "Fatal" not in told


def test_a_closed_output_ends_classify(waiting, web) -> None:
    waiting.stdout.close()
    waiting.stdin.write(f"{web}/coffee.jpg\n".encode())
    waiting.stdin.flush()
    assert waiting.wait(timeout=300) == 128 + signal.SIGPIPE
    told = waiting.stderr.read().decode().splitlines()
    assert [line.partition(" ")[2].partition(" ")[0] for line in told] == ["loading", "licence"]


def test_an_empty_folder_is_no_error(here, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    done = here.call("classify", str(tmp_path / "empty"))
    assert (done.returncode, done.stdout) == (0, "")
    assert "no image" in done.stderr
