"""A loader that was taken over cannot misuse its worker's output or terminal, or outlive it."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from contract.settings import Settings
from tests.integration.dispatching import WITHIN_S, until
from tests.pictures.demo import GOOD
from tests.pools import Pool
from worker.pool import loader_log
from worker.pool.process import count_threads

# A worker that prints its loader's process id, loads one image, and then ends or keeps running.
WORKER = f"""
import os, sys, threading
from pathlib import Path
from contract.log import log_lines
from contract.settings import Settings
from tests.pools import Pool
log_lines("INFO")
os.environ["PYTHONPATH"] = os.environ["PLANTED"]
pool = Pool(Settings(loaders=1, sandbox=sys.argv[1], file_roots=(Path({str(GOOD.parent)!r}),)))
pool.inner.start()
print(pool.inner.processes[0].child.pid, flush=True)
pool.load(Path({str(GOOD)!r}))
if sys.argv[2] == "answer":
    assert pool.answers(1) == [({GOOD.name!r}, None)]
    pool.inner.close()
else:
    threading.Event().wait()
"""


def plant(folder: Path, program: str) -> dict[str, str]:
    """An environment in which each loader runs this program before its own code."""
    library = folder / "library"
    library.mkdir()
    (library / "certifi.py").write_text(f"import sys\n{program}\ndef where(): return sys.argv[0]\n")
    root = str(Path(__file__).parents[3])
    return os.environ | {"PYTHONPATH": root, "PLANTED": f"{library}{os.pathsep}{root}"}


FORGED = json.dumps({"uri": "https://a.example/1.jpg", "top5": []})


def test_a_loaders_output_forges_no_log_line_and_controls_no_terminal(
    tmp_path: Path,
) -> None:
    written = f"{FORGED}\\n\\x1b]0;title\\x07\\rINFO worker: all is well\\u202e\\x9b31m\\n"
    program = f"import os\nfor n in (1, 2): os.write(n, '{written}'.encode())"
    done = subprocess.run(
        [sys.executable, "-c", WORKER, "required", "answer"],
        env=plant(tmp_path, program),
        capture_output=True,
        timeout=WITHIN_S,
        check=True,
    )
    assert done.stdout.strip().isdigit()  # and nothing from the loader
    told = done.stderr.decode()
    assert not any(sign in told for sign in "\x1b\x07\r\u202e\x9b")
    for line in told.splitlines():
        if "all is well" in line or "top5" in line:
            assert ": Loader " in line
    assert "\\x1b]0;title\\x07\\rINFO worker: all is well\\u202e\\x9b31m" in told


@pytest.mark.parametrize("sandbox", ["required", "off"])
def test_a_loader_has_no_terminal(tmp_path: Path, sandbox: str) -> None:
    """This test's worker has a terminal, so the loader's attempts could succeed."""
    program = (
        "import os, sys\n"
        "def reached(what, attempt):\n"
        "    try: attempt()\n"
        "    except OSError: found = 'refused'\n"
        "    else: found = 'reached'\n"
        "    os.write(2, f'{what}: {found}\\n'.encode())\n"
        "for n in (0, 1, 2): reached(f'tty {n}', lambda: os.tcgetpgrp(n))\n"
        "reached('terminal', lambda: os.open('/dev/tty', os.O_RDWR))\n"
    )
    environment = plant(tmp_path, program)
    outside = "import os; os.tcgetpgrp(0); os.open('/dev/tty', os.O_RDWR); print('reached')\n"
    child, terminal = pty.fork()
    if not child:
        command = [sys.executable, "-c", outside + WORKER, sandbox, "answer"]
        os.execvpe(sys.executable, command, environment)
    shown = read_all(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, shown
    assert "reached" in shown.splitlines()[0]
    said = [line.rpartition(": Loader ")[2] for line in shown.splitlines() if ": Loader " in line]
    found = dict(line.split(": ")[1:3] for line in said)
    assert found == dict.fromkeys(("tty 0", "tty 1", "tty 2", "terminal"), "refused")


def read_all(terminal: int) -> str:
    shown = b""
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # on Linux, the other end is closed
            piece = b""
        if not piece:
            os.close(terminal)
            return shown.decode()
        shown += piece


# A loader that wants to stay reads no requests and tries to prevent its end.
STAYING = """
import ctypes, os, signal, threading
for attempt in (
    lambda: ctypes.CDLL(None).prctl(1, 0, 0, 0, 0),
    os.setsid,
    lambda: [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 3, 15)],
):
    try: attempt()
    except OSError: pass
threading.Event().wait()
"""


@contextmanager
def worker(environment: dict[str, str]) -> Iterator[tuple[int, int]]:
    """Run a worker. Yields its process id and its loader's."""
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, "required", "stay"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        try:
            yield process.pid, int(process.stdout.readline())
        finally:
            process.kill()


def test_no_loader_outlives_a_killed_worker(tmp_path: Path) -> None:
    with worker(plant(tmp_path, STAYING)) as (parent, loader):
        watched = os.pidfd_open(loader)
        until(lambda: is_waiting(loader))
        os.kill(parent, signal.SIGKILL)
        ended, _, _ = select.select([watched], [], [], WITHIN_S)
        os.close(watched)
    assert ended


def is_waiting(process: int) -> bool:
    """Whether the process has its filter and sleeps. The program above starts after the filter."""
    status = Path(f"/proc/{process}/status").read_text()
    return "Seccomp:\t2" in status and "State:\tS" in status


def test_a_loader_ends_at_once_if_its_worker_has_already_ended() -> None:
    """In this case no signal would come."""
    another = os.getppid()
    start = [sys.executable, "-m", "worker.loader.sandbox.start", str(another), "", ""]
    done = subprocess.run(
        [*start, "this", "is never loaded"], capture_output=True, timeout=WITHIN_S, check=False
    )
    assert (done.returncode, done.stderr) == (1, b"")


# Many threads, which no memory limit counts

CROWD = """
import hashlib, threading
hash_only = hashlib.sha256
def hash_or_crowd(body=b""):
    if body.endswith(b"crowd"):
        for _ in range(300): threading.Thread(target=threading.Event().wait, daemon=True).start()
        threading.Event().wait()
    return hash_only(body)
hashlib.sha256 = hash_or_crowd
"""


def test_a_loader_with_too_many_threads_is_ended(tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.setenv("PYTHONPATH", plant(tmp_path, CROWD)["PLANTED"])
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    crowd = pictures / "crowd.jpg"
    crowd.write_bytes(GOOD.read_bytes() + b"crowd")
    roots = (pictures, GOOD.parent)
    pool = Pool(Settings(loaders=1, fetches_per_loader=2, decode_deadline_s=1.0, file_roots=roots))
    pool.inner.start()
    try:
        pool.load(crowd, GOOD)
        answers = {name: failure and failure.code for name, failure in pool.answers(2)}
        assert answers == {crowd.name: "crashed", GOOD.name: None}
        pool.load(GOOD)
        assert pool.answers(1) == [(GOOD.name, None)]
    finally:
        pool.inner.close()
    assert "threads. It will be replaced" in caplog.text


def test_threads_are_counted_as_the_kernel_counts_them() -> None:
    own = len(list(Path("/proc/self/task").iterdir()))
    assert count_threads(os.getpid()) == own
    assert count_threads(2**30) == 0


def test_a_loader_that_writes_endlessly_does_not_fill_the_log(
    tmp_path: Path, monkeypatch, caplog
) -> None:
    monkeypatch.setattr(loader_log, "MOST_LINES", 20)
    program = "import os\nfor n in range(5000): os.write(2, b'\\x1b[%dm\\n' % n)"
    monkeypatch.setenv("PYTHONPATH", plant(tmp_path, program)["PLANTED"])
    pool = Pool(Settings(loaders=1, file_roots=(GOOD.parent,)))
    pool.inner.start()
    try:
        pool.load(GOOD)
        assert pool.answers(1) == [(GOOD.name, None)]
    finally:
        pool.inner.close()
    lines = [r.getMessage() for r in caplog.records if r.name == loader_log.__name__]
    assert len(lines) == 21
    assert lines[0].endswith(r": \x1b[0m")
    assert lines[-1] == "Loaders have written more than 20 lines within 60 s. The rest is dropped."
