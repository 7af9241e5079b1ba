"""The benchmarks' web server follows its script, and their rows run. No figure is checked."""

from __future__ import annotations

import io
import socket
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import pytest
import requests
from PIL import Image

from benchmarks.rig import web

ROOT = Path(__file__).parents[2]
PLAYING = """
import sys, time
sys.path.insert(0, sys.argv[1])
from benchmarks.rig.web import Script, playing
with playing(Script(), None, hosts=1) as web:
    print(web.uris(1)[0], flush=True)
    time.sleep(600)
"""


def visit(uri: str) -> str:
    """Request the URI, and name what happened as the script does."""
    try:
        answer = requests.get(uri, timeout=5)
    except requests.Timeout:
        return "hang"
    except requests.ConnectionError:
        return "reset"
    if answer.status_code != 200:
        assert answer.headers.get("Retry-After") == {503: "1"}.get(answer.status_code)
        return {404: "not_found", 503: "busy"}[answer.status_code]
    try:
        Image.open(io.BytesIO(answer.content)).load()
    except OSError:
        return "broken"
    return "picture"


def test_every_uri_does_what_the_script_says_for_its_path() -> None:
    script = web.Script(latency_ms=1.0)
    by_kind: dict[str, str] = {}
    with web.playing(script, None, hosts=3) as played:
        for uri in played.uris(1000):
            by_kind.setdefault(script.of(requests.utils.urlparse(uri).path).kind, uri)
        with ThreadPoolExecutor(len(by_kind)) as visitors:
            found = dict(zip(by_kind, visitors.map(visit, by_kind.values()), strict=True))
        served = played.counts()["served"]

    assert found == {kind: kind for kind in web.KINDS}
    assert served == dict.fromkeys(web.KINDS, 1)


def test_the_script_keeps_its_shares_and_its_latency() -> None:
    script = web.Script()
    seen = [script.of(f"/{n}.jpg") for n in range(20_000)]
    shares = {kind: n / len(seen) for kind, n in Counter(one.kind for one in seen).items()}

    for kind in web.KINDS[1:]:
        assert shares[kind] == pytest.approx(getattr(script, kind), rel=0.15)
    assert median(one.latency_s for one in seen) == pytest.approx(0.1, rel=0.05)
    assert seen == [script.of(f"/{n}.jpg") for n in range(20_000)]


def test_the_web_server_ends_when_its_parent_is_killed() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PLAYING, ROOT], stdout=subprocess.PIPE, text=True
    )
    uri = parent.stdout.readline().strip()
    parent.kill()
    parent.communicate()
    address = requests.utils.urlparse(uri)
    while True:  # until nothing listens there
        try:
            socket.create_connection((address.hostname, address.port)).close()
        except ConnectionError:
            break


def run_rows(*rows: str, scale: str) -> subprocess.CompletedProcess[str]:
    options = ["--rounds", "1", "--scale", scale, "--database", "sqlite", "--row", *rows]
    return run(ROOT / "benchmarks" / "pipeline.py", *options)


def run(*program: str | Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_a_row_of_the_pipeline_runs_from_submit_to_its_table() -> None:
    done = run_rows("memory", scale="0.005")
    assert "Memory of the whole worker" in done.stdout
    assert "growth" in done.stdout
    assert "after 500 images" in done.stderr


def test_the_cost_at_size_is_measured_from_submit_to_its_table() -> None:
    options = ["--images", "2000", "--small-jobs", "3", "--seconds", "1"]
    done = run("-m", "benchmarks.system.at_size", *options)
    assert "2,000 images in one job, 3 small jobs beside it" in done.stdout
    for row in ("submit", "status", "Redis's memory", "first result", "submit, SQLite"):
        assert row in done.stdout


def test_a_row_with_traps_classifies_every_good_image() -> None:
    """Otherwise the benchmark ends with an error."""
    done = run_rows("hostile", scale="0.02")
    assert "has half that speed" in done.stdout
