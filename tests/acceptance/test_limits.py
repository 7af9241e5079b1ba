"""`classify` under tight limits on threads or descriptors: every line is still right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.acceptance.installation import RESNEXTQ, environment
from tests.servers.sites import picture

LIMITED = Path(__file__).parents[1] / "doubles" / "limited.py"
NOBODYS = 54_321  # a user without other processes
CGROUPS = Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")
HOSTS, OF_EACH = 32, 36
SLOW_S = 0.3
WITHIN_S = 600  # torch and a thousand images, on a busy machine
ANSWERS = {"picture": (200, picture()), "gone": (404, b""), "text": (200, b"no picture at all")}
CODES = {"picture": None, "gone": "http_404", "text": "not_an_image"}


class Slow(BaseHTTPRequestHandler):
    never = threading.Event()

    def do_GET(self) -> None:
        status, body = ANSWERS[self.path.split("/")[1]]
        self.never.wait(SLOW_S)
        with suppress(ConnectionError):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


@pytest.fixture
def uris() -> Iterator[list[str]]:
    """URIs on 32 slow hosts. Few are pictures, since classifying takes long."""
    kinds = ("picture", *["gone", "text"] * 4)
    with Server(("0.0.0.0", 0), Slow) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield [
            f"http://127.0.1.{host + 1}:{server.server_port}/{kinds[n % len(kinds)]}/{n}"
            for n in range(OF_EACH)
            for host in range(HOSTS)
        ]
        server.shutdown()
        thread.join()


@contextmanager
def cgroup(threads: int) -> Iterator[Path]:
    """A cgroup with this limit of processes and threads."""
    for root in CGROUPS:
        folder = root / f"resnext-test-{os.getpid()}"
        with suppress(OSError):
            folder.mkdir()
            if (folder / "pids.max").exists():
                break
            folder.rmdir()
    else:
        pytest.skip("this machine permits no cgroup with a limit of processes")
    try:
        (folder / "pids.max").write_text(str(threads))
        yield folder
    finally:
        folder.rmdir()


def classify(folder: Path, uris: Sequence[str], *before: str) -> tuple[list[str | None], str]:
    """Run `classify`, prefixed with `before`.

    Returns the error codes in the order of the URIs, and the log.
    """
    variables = environment(
        folder,
        RESNEXT_MODEL="resnext_tiny_imagenet",
        RESNEXT_PRECISION="fp32",
        RESNEXT_LOADERS="4",
        RESNEXT_FETCH_ALLOW="127.0.0.0/8",
    )
    done = subprocess.run(
        [*before, RESNEXTQ, "classify", "--json", "-"],
        env=variables,
        cwd=folder,
        input="\n".join(uris),
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["uri"] for record in records] == list(uris)
    return [(record.get("error") or {}).get("code") for record in records], done.stderr


def expected(uris: Sequence[str]) -> list[str | None]:
    return [CODES[uri.split("/")[3]] for uri in uris]


def warnings(log: str, limit: str) -> list[str]:
    return [line for line in log.splitlines() if limit in line]


needs_root = pytest.mark.skipif(
    os.getuid() != 0, reason="only root can become a user without other processes"
)


@needs_root
def test_every_image_has_its_line_under_a_users_thread_limit(tmp_path: Path, uris) -> None:
    os.chown(tmp_path, NOBODYS, NOBODYS)
    limits = (str(NOBODYS), "300")
    found, log = classify(tmp_path, uris, sys.executable, str(LIMITED), *limits)
    assert found == expected(uris)
    assert len(warnings(log, "`ulimit -u` of user 54321 is 300")) == 1, log


@needs_root
def test_every_image_has_its_line_under_a_containers_limit(tmp_path: Path, uris) -> None:
    with cgroup(300) as folder:
        join = f"import os, sys; open('{folder}/cgroup.procs', 'w').write(str(os.getpid()))"
        start = f"{join}; os.execv(sys.argv[1], sys.argv[1:])"
        found, log = classify(tmp_path, uris, sys.executable, "-c", start)
    assert found == expected(uris)
    assert len(warnings(log, "pids.max in ")) == 1, log


def test_every_image_has_its_line_under_a_descriptor_limit(tmp_path: Path, uris) -> None:
    start = 'ulimit -n 256 && exec "$@"'
    found, log = classify(tmp_path, uris, "/bin/sh", "-c", start, "sh")
    assert found == expected(uris)
    assert len(warnings(log, "`ulimit -n` is 256")) == 1, log


@needs_root
def test_if_no_loader_can_start_the_error_names_the_limit(tmp_path: Path) -> None:
    os.chown(tmp_path, NOBODYS, NOBODYS)
    done = subprocess.run(
        [
            *(sys.executable, LIMITED, str(NOBODYS), "4"),
            *(RESNEXTQ, "classify", "http://127.0.0.1/1", "http://127.0.0.1/2"),
        ],
        env=environment(tmp_path, RESNEXT_MODEL="resnext_tiny_imagenet"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert "limit of processes and threads" in done.stderr
