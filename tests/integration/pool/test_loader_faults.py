"""What it costs when loader processes meet hostile pictures, hang or die."""

from __future__ import annotations

import errno
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import pytest
from PIL import Image

from contract.failure import Failure
from contract.settings import Settings
from tests.integration.dispatching import WITHIN_S, until
from tests.pictures.demo import GOOD
from tests.pictures.hostile import make_endless_jpeg, make_png
from tests.pools import Pool
from worker.pool.loader_log import LoaderLog
from worker.pool.pool import PoolClosed
from worker.pool.process import LOOKS, WALL_FACTOR, LoaderProcess
from worker.pool.request import LoadRequest
from worker.pool.slots import Slots
from worker.pool.verdict import MOST_UNEXPLAINED_DEATHS

MakePool = Callable[..., Pool]


@pytest.fixture
def make_pool(tmp_path: Path) -> Iterator[MakePool]:
    pools: list[Pool] = []

    def make(**settings: object) -> Pool:
        values = {"loaders": 1, "fetches_per_loader": 2, "file_roots": (tmp_path, GOOD.parent)}
        pools.append(Pool(Settings(**values | settings)))
        pools[-1].inner.start()
        return pools[-1]

    yield make
    for pool in pools:
        pool.inner.close()


def test_a_loader_with_fast_decoding_has_torch_and_is_sandboxed(
    make_pool: MakePool, tmp_path: Path
) -> None:
    pool = make_pool(decode="fast")
    path = tmp_path / "a.jpg"
    Image.new("RGB", (500, 375), "red").save(path)
    pool.load(path, GOOD)
    assert sorted(pool.answers(2)) == [("a.jpg", None), (GOOD.name, None)]
    # Threads that torch started before the sandbox would be outside it.
    threads = Path(f"/proc/{pool.inner.processes[0].child.pid}/task").iterdir()
    assert {"Seccomp:\t2" in (thread / "status").read_text() for thread in threads} == {True}


def test_a_huge_width_in_a_header_costs_only_its_image(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool()
    wide = make_png(tmp_path / "wide.png", 2**32 - 1, 1)
    pool.load(*[wide] * 4)  # more images than threads
    codes = [(name, failure.code) for name, failure in pool.answers(4) if failure]
    assert codes == [("wide.png", "too_many_pixels")] * 4
    pool.load(GOOD)
    assert pool.answers(1) == [(GOOD.name, None)]


@pytest.fixture
def patient(monkeypatch) -> None:
    """Allow for a machine that is busy with other tests and stops a loader for long."""
    monkeypatch.setattr("worker.pool.process.WALL_FACTOR", 1000)


def test_a_picture_that_decodes_for_ever_fails_alone(
    patient: None, make_pool: MakePool, tmp_path: Path, caplog
) -> None:
    pool = make_pool(fetches_per_loader=8, decode_deadline_s=1.0)
    endless = make_endless_jpeg(tmp_path / "endless.jpg")
    pool.load(endless, *[GOOD] * 6)
    answers = dict(pool.answers(7))
    failure = Failure("decode_timeout", "more than 1 s of processor time")
    assert answers == {endless.name: failure, GOOD.name: None}
    assert "decode_timeout" in caplog.text


def test_the_decode_deadline_counts_for_each_picture(make_pool: MakePool, tmp_path: Path) -> None:
    """All pictures use the same slot, and together they take longer than the deadline."""
    large = tmp_path / "large.png"
    Image.effect_noise((4000, 3000), 50).save(large, compress_level=0)
    pool = make_pool(fetches_per_loader=1, decode_deadline_s=6.0)
    for _ in range(60):
        pool.load(large)
    assert pool.answers(60) == [(large.name, None)] * 60


def test_a_picture_whose_loader_had_to_wait_is_decoded(
    patient: None, make_pool: MakePool, tmp_path: Path
) -> None:
    """A busy machine may stop a loader for long. Only its processor time counts."""
    pool = make_pool(decode_deadline_s=4.0)
    slow = make_endless_jpeg(tmp_path / "slow.jpg", scans=8)
    pool.load(slow)
    process = until(lambda: pool.inner.processes[0])
    until(process.slots.noted)
    process.child.send_signal(signal.SIGSTOP)
    until(lambda: process._looks_at_note > LOOKS)
    process.child.send_signal(signal.SIGCONT)
    assert pool.answers(1) == [(slow.name, None)]


def kill_while_decoding(pool: Pool, number: signal.Signals) -> None:
    """Send a signal to the only loader while it decodes a slow picture."""
    process = until(lambda: pool.inner.processes[0])
    until(process.slots.noted)
    process.child.send_signal(number)
    if number != signal.SIGSTOP:
        until(lambda: pool.inner.processes[0] is not process)


@pytest.fixture
def stuck(make_pool: MakePool, tmp_path: Path) -> tuple[Pool, Path]:
    """A pool whose only loader is decoding this slow picture."""
    pool = make_pool()
    image = make_endless_jpeg(tmp_path / "image.jpg")
    pool.load(image)
    return pool, image


@pytest.mark.parametrize(
    "number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE]
)
def test_an_image_that_crashes_the_decoder_fails_at_once(
    stuck: tuple[Pool, Path], number: signal.Signals
) -> None:
    pool, image = stuck
    kill_while_decoding(pool, number)
    assert pool.answers(1) == [(image.name, Failure("crashed", "the decoder crashed"))]
    pool.load(GOOD)
    assert pool.answers(1) == [(GOOD.name, None)]


def test_an_image_whose_loader_is_killed_once_is_tried_again(
    stuck: tuple[Pool, Path],
) -> None:
    """A person may have killed it, or the kernel because memory was short."""
    pool, image = stuck
    kill_while_decoding(pool, signal.SIGSTOP)
    shutil.copy(GOOD, image)
    kill_while_decoding(pool, signal.SIGKILL)
    assert pool.answers(1) == [(image.name, None)]


def test_replaced_loaders_are_counted_by_cause(stuck: tuple[Pool, Path]) -> None:
    pool, _ = stuck
    assert set(pool.inner.restarts.values()) == {0}
    kill_while_decoding(pool, signal.SIGKILL)
    kill_while_decoding(pool, signal.SIGSEGV)
    pool.answers(1)
    counted = {cause: times for cause, times in pool.inner.restarts.items() if times}
    assert counted == {"killed": 1, "crashed": 1}


def test_an_image_whose_loader_is_killed_each_time_fails(stuck: tuple[Pool, Path]) -> None:
    pool, _ = stuck
    for _ in range(2):
        kill_while_decoding(pool, signal.SIGKILL)
    ((_, failure),) = pool.answers(1)
    assert (failure.code, failure.detail[:21]) == ("crashed", "the loader was killed")


# Loaders that run but do no work


def loads(pool: Pool) -> bool:
    """Whether the pool loads an image."""
    pool.load(GOOD)
    return pool.answers(1) == [(GOOD.name, None)]


def test_a_silent_loader_is_replaced_and_its_images_fail(make_pool: MakePool, monkeypatch) -> None:
    """It decodes nothing, so the deadline for decoding does not apply."""
    monkeypatch.setattr("worker.pool.pool.START_WITHIN_S", 1.0)
    pool = make_pool(fetch_deadline_s=1.0, decode_deadline_s=0.2)
    until(lambda: loads(pool))
    process = pool.inner.processes[0]
    process.child.send_signal(signal.SIGSTOP)
    pool.load(GOOD, GOOD)
    failure = Failure("timeout", "no answer from its loader for 3 s")
    assert pool.answers(2) == [(GOOD.name, failure)] * 2
    assert process.child.returncode == -signal.SIGKILL
    assert failure.retried
    until(lambda: loads(pool))


@pytest.fixture
def idle() -> Iterator[LoaderProcess]:
    """The pool's side of a loader whose process does nothing."""
    ours, theirs = socket.socketpair()
    slots = Slots(Slots.make(count=1, crop=32), count=1, crop=32)
    program = [sys.executable, "-c", "input()"]
    pipe = subprocess.PIPE
    with ours, theirs, subprocess.Popen(program, stdin=theirs, stderr=pipe) as child:
        yield LoaderProcess(child, ours, slots, free=[], log=LoaderLog(child), most_threads=1)
        child.kill()


def test_a_loader_without_processor_time_is_killed_in_the_end(idle: LoaderProcess) -> None:
    """It decodes but uses no processor time, so the image is not to blame."""
    for _ in range(2):  # each picture has its own limit
        idle.slots.note(0)
        for _ in range(LOOKS * WALL_FACTOR):
            idle.look(60.0)
        assert (idle.stalled, idle.child.poll()) == (None, None)
    idle.look(60.0)
    assert (idle.stalled, idle.overdue) == (idle.slots.noted(), None)
    assert idle.child.wait(WITHIN_S) == -signal.SIGKILL


def test_a_loader_that_used_up_its_processor_time_is_killed_at_the_next_look(
    idle: LoaderProcess,
) -> None:
    idle.slots.note(0)
    idle.look(0.0)
    assert idle.overdue is None
    idle.look(0.0)
    assert (idle.stalled, idle.overdue) == (None, idle.slots.noted())
    assert idle.child.wait(WITHIN_S) == -signal.SIGKILL


def test_a_loader_that_answers_now_and_then_is_left_alone(idle: LoaderProcess) -> None:
    for _ in range(10):
        idle.listen(3)  # it has no request to answer
    idle.requests[0] = LoadRequest(None, "", None, None, lambda _: None)
    for _ in range(5):
        idle.answered += 1
        for _ in range(3):
            idle.listen(3)
    assert (idle.mute, idle.child.poll()) == (False, None)
    idle.listen(3)
    assert (idle.mute, idle.child.wait(WITHIN_S)) == (True, -signal.SIGKILL)


def test_a_loader_that_reads_no_requests_is_replaced_at_no_images_cost(
    make_pool: MakePool,
) -> None:
    """The requests exceed the kernel's buffer, so sending them would block."""
    pool = make_pool(fetches_per_loader=64)
    assert loads(pool)
    process = pool.inner.processes[0]
    # Its replacement has the usual time, since it must first start.
    a_moment = struct.pack("ll", 0, 200_000)
    process.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, a_moment)
    process.child.send_signal(signal.SIGSTOP)
    uris = [f"http://10.0.0.{n}/{'long' * 2000}.jpg" for n in range(64)]

    def give_out() -> None:
        for uri in uris:
            pool.inner.load(uri, pool._note(uri))

    threading.Thread(target=give_out, daemon=True).start()
    answers = {uri: failure and failure.code for uri, failure in pool.answers(64)}
    assert answers == dict.fromkeys(uris, "blocked_address")
    assert process.child.returncode == -signal.SIGKILL
    assert loads(pool)


# This goes into a library that loaders import. If a file with one of these names lies beside it, a
# fault happens that our code never causes. Landlock permits checking whether a file exists.
PLANTED = """
import hashlib, os, signal, sys
from pathlib import Path
from worker.loader.fetch.loop import Loop
from worker.pool import wire

class Panic(BaseException):
    "As libraries in Rust raise it."

def hash_or_panic(body, sha256=hashlib.sha256):
    if body.endswith(b"panic"):
        raise Panic
    word, _, number = body[-10:].partition(b"dies by")  # before the note says what is decoded
    if number:
        signal.raise_signal(int(number)) if int(number) else os._exit(1)
    return sha256(body)

def pack_or_not(answers, pack_packets=wire.pack_packets):
    if Path(__file__).with_name("no memory").exists():
        raise MemoryError
    return pack_packets(answers)

def turn_or_not(loop, turn=Loop.turn):
    if Path(__file__).with_name("fault").exists():
        raise RuntimeError("a fault in the loop")
    turn(loop)

hashlib.sha256, wire.pack_packets, Loop.turn = hash_or_panic, pack_or_not, turn_or_not

def where(): return sys.argv[0]
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch) -> Path:
    library = tmp_path / "library"
    library.mkdir()
    (library / "certifi.py").write_text(PLANTED)
    monkeypatch.setenv("PYTHONPATH", str(library))
    return library


def test_a_loader_ends_when_one_of_its_threads_ends(library: Path, make_pool: MakePool) -> None:
    """Otherwise the slot would never be free again, and the image would get no answer."""
    want = library / "no memory"
    want.touch()
    pool = make_pool()
    process = pool.inner.processes[0]
    pool.load(GOOD)
    assert process.child.wait(WITHIN_S) == 1
    want.unlink()
    assert pool.answers(1) == [(GOOD.name, None)]


def test_a_loader_ends_with_its_loop_and_logs_why(
    library: Path, make_pool: MakePool, caplog
) -> None:
    """Otherwise it would hang for ever."""
    pool = make_pool()
    assert loads(pool)
    process, fault = pool.inner.processes[0], library / "fault"
    fault.touch()
    pool.load(GOOD)
    assert process.child.wait(WITHIN_S) == 1
    fault.unlink()
    assert pool.answers(1) == [(GOOD.name, None)]
    assert "RuntimeError: a fault in the loop" in caplog.text


def test_any_exception_costs_one_image_and_no_loader(
    library: Path, make_pool: MakePool, tmp_path: Path
) -> None:
    pool = make_pool()
    image = tmp_path / "image.jpg"
    image.write_bytes(GOOD.read_bytes() + b"panic")
    process = pool.inner.processes[0]
    pool.load(image, GOOD)
    assert dict(pool.answers(2)) == {
        image.name: Failure("internal", "loader: Panic()"),
        GOOD.name: None,
    }
    assert pool.inner.processes[0] is process


def test_starting_a_loader_is_retried_until_it_succeeds(
    make_pool: MakePool, monkeypatch, caplog
) -> None:
    pool, start, failures = make_pool(), subprocess.Popen, iter(range(3))

    def start_at_last(*arguments: Any, **options: Any) -> Any:
        if next(failures, None) is not None:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return start(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", start_at_last)
    pool.inner.processes[0].child.kill()
    pool.load(GOOD)
    assert pool.answers(1) == [(GOOD.name, None)]
    assert caplog.text.count("No loader can be started") == 1


def test_a_pool_without_loaders_can_be_closed(make_pool: MakePool, monkeypatch, caplog) -> None:
    def start(*_: object, **__: object) -> NoReturn:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    pool = make_pool()
    monkeypatch.setattr(subprocess, "Popen", start)
    pool.inner.processes[0].child.kill()
    until(lambda: "No loader can be started" in caplog.text)
    pool.inner.close()
    with pytest.raises(PoolClosed):
        pool.load(GOOD)


def test_a_pool_can_be_closed_while_a_dead_loader_is_cleaned_up(
    make_pool: MakePool, monkeypatch
) -> None:
    buried, end, go_on = threading.Event(), LoaderProcess.end, threading.Event()

    def end_slowly(process: LoaderProcess) -> None:
        end(process)
        buried.set()
        assert go_on.wait(WITHIN_S)

    pool = make_pool()
    monkeypatch.setattr(LoaderProcess, "end", end_slowly)
    pool.inner.processes[0].child.kill()
    assert buried.wait(WITHIN_S)
    with ThreadPoolExecutor(1) as threads:
        closing = threads.submit(pool.inner.close)
        until(lambda: not pool.inner._scheduler._accepting)
        go_on.set()
        closing.result()


# Loaders that die without a note of what they decoded


def make_deadly(path: Path, number: int) -> Path:
    """A picture that ends its loader before the note: by this signal, or by an exit if 0."""
    path.write_bytes(GOOD.read_bytes() + b"dies by%03d" % number)
    return path


@pytest.mark.parametrize("number", [0, signal.SIGKILL, signal.SIGSEGV])
def test_only_the_image_that_ends_its_loader_without_a_note_fails(
    library: Path, make_pool: MakePool, tmp_path: Path, number: int
) -> None:
    pool = make_pool(fetches_per_loader=8)
    deadly = make_deadly(tmp_path / "deadly.jpg", number)
    neighbours = [Path(shutil.copy(GOOD, tmp_path / f"{n}.jpg")) for n in range(6)]
    pool.load(*neighbours[:3], deadly, *neighbours[3:])
    answers = dict(pool.answers(7))
    failure = answers.pop(deadly.name)
    assert failure is not None
    assert failure.code == "crashed"
    assert answers == dict.fromkeys((image.name for image in neighbours), None)
    assert loads(pool)


def test_several_deadly_images_are_found_among_many(
    library: Path, make_pool: MakePool, tmp_path: Path
) -> None:
    pool = make_pool(loaders=2, fetches_per_loader=16)
    deadly = [make_deadly(tmp_path / f"deadly-{n}.jpg", signal.SIGABRT) for n in range(3)]
    others = [Path(shutil.copy(GOOD, tmp_path / f"{n}.jpg")) for n in range(37)]
    pool.load(*others[:20], *deadly, *others[20:])
    answers = {name: failure and failure.code for name, failure in pool.answers(40)}
    assert answers == {image.name: None for image in others} | {
        image.name: "crashed" for image in deadly
    }


def test_only_the_request_that_no_loader_can_read_fails(make_pool: MakePool) -> None:
    """The packet is too long and is cut off, which ends its loader."""
    pool = make_pool(fetches_per_loader=8)
    uri = f"http://10.0.0.1/{'long' * 50_000}.jpg"
    pool.inner.load(uri, pool._note("long"))
    pool.load(*[GOOD] * 5)
    answers = sorted((name, failure and failure.code) for name, failure in pool.answers(6))
    assert answers == sorted([(GOOD.name, None)] * 5 + [("long", "crashed")])


def test_loaders_that_cannot_start_cost_no_image(
    library: Path, make_pool: MakePool, caplog
) -> None:
    """They never received it."""
    certifi = library / "certifi.py"
    works = certifi.read_text()
    certifi.write_text("raise SystemExit(1)")
    pool = make_pool()
    pool.load(GOOD)
    until(lambda: caplog.text.count("A loader died") > MOST_UNEXPLAINED_DEATHS + 1)
    certifi.write_text(works)
    assert pool.answers(1) == [(GOOD.name, None)]
