"""What a loader cannot do after it was taken over, and what it must still be able to do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, features

from contract.errors import UnavailableError
from contract.settings import Settings
from resnext.spec.catalogue import find_spec
from tests.doubles.intruder import OF_ROOT
from tests.integration.dispatching import WITHIN_S
from tests.integration.sandbox.inside import inside
from tests.pictures.demo import GOOD
from tests.pools import Pool
from tests.servers.sites import LOOPBACK, serving
from worker.loader.config import LoaderConfig
from worker.loader.sandbox import landlock, seccomp
from worker.loader.sandbox.protections import ATTEMPTS, Protections, find_out, tell_protections
from worker.loader.sandbox.spawn import write_permitted
from worker.loader.sandbox.start import read_permitted
from worker.pool.environment import ADDED_VARIABLES, KEPT_VARIABLES

INTRUDER = Path(__file__).parents[2] / "doubles" / "intruder.py"

pytestmark = pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with the intruder's targets."""
    folder = tmp_path / "outside"
    folder.mkdir()
    for name in ("secret", "doomed", "doomed too"):
        (folder / name).touch()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "server"))
        server.listen()
        yield folder


def reported(text: str) -> dict[str, str]:
    """The outcome of each attempt: `done`, or the name of the error."""
    lines = [line.partition("intruder: ")[2] for line in text.splitlines() if "intruder: " in line]
    return {name: outcome for name, _, outcome in (line.rpartition(": ") for line in lines)}


def run(program: str, folder: Path, *attempts: str) -> dict[str, str]:
    """Run a Python program and then the intruder in the same process."""
    enter = f"import runpy\nfrom pathlib import Path\n{program}\n"
    call = f"runpy.run_path({str(INTRUDER)!r})['main'](Path({str(folder)!r}), {attempts!r})"
    done = subprocess.run(
        [sys.executable, "-c", enter + call],
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=True,
    )
    return reported(done.stderr)


def test_every_attempt_succeeds_outside_the_sandbox(folder: Path) -> None:
    """So if an attempt fails inside, the sandbox has refused it."""
    found = run("", folder)
    refused = {name for name, outcome in found.items() if outcome != "done"}
    assert len(found) > len(OF_ROOT)
    assert refused <= (set() if os.getuid() == 0 else OF_ROOT)


def test_every_attempt_fails_inside_a_loader(
    folder: Path, tmp_path: Path, monkeypatch, caplog
) -> None:
    """The intruder is in a library that the loader imports, and runs before the loader begins."""
    library = tmp_path / "library"
    library.mkdir()
    (library / "certifi.py").write_text(
        "import runpy, sys\n"
        "from pathlib import Path\n"
        f"runpy.run_path({str(INTRUDER)!r})['main'](Path({str(folder)!r}))\n"
        "def where(): return sys.argv[0]\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(library))
    pool = Pool(Settings(loaders=1, file_roots=(GOOD.parent, INTRUDER.parent)))
    pool.inner.start()
    try:
        pool.load(GOOD)
        assert pool.answers(1) == [(GOOD.name, None)]
    finally:
        pool.inner.close()
    found = reported(caplog.text)
    done = {name for name, outcome in found.items() if outcome == "done"}
    assert done == set()
    assert len(found) > len(OF_ROOT)
    assert set(found.values()) <= {"EACCES", "EPERM", "EAFNOSUPPORT"}


# How to remove the protection that refuses an attempt. If two protections refuse it, both are
# removed.
REFUSED_BY = {
    "set an open file's length": "del seccomp._REFUSED['ftruncate']",
    "reserve space in an open file": "del seccomp._REFUSED['fallocate']",
    "join another group": "del seccomp._REFUSED['setpgid']",
    "start a session": "del seccomp._REFUSED['setsid']",
    "live on without the parent": "seccomp._OF_ITSELF = ()",
    "let others read its memory": "seccomp._OF_ITSELF = ()",
    "adopt processes": "seccomp._OF_ITSELF = ()",
    "make memory without a limit": "del seccomp._REFUSED['memfd_create']",
    "share memory": "del seccomp._REFUSED['shmget'], seccomp._REFUSED['shmctl']",
    "queue messages": "del seccomp._REFUSED['msgget'], seccomp._REFUSED['msgctl']",
    "hold semaphores": "del seccomp._REFUSED['semget'], seccomp._REFUSED['semctl']",
    "queue messages by a name": (
        "del seccomp._REFUSED['mq_open'], seccomp._REFUSED['mq_unlink']; start._confine = list"
    ),
    "watch all files": "del seccomp._REFUSED['fanotify_init']",
    "keep capabilities": "capabilities.give_up = list",
    "speak ICMP by itself": (
        "capabilities.give_up, seccomp._TYPES, seccomp._PROTOCOLS = list, (3, 3 | 1 << 19), (1,)"
    ),
    "read all packets": (
        "capabilities.give_up, seccomp._FAMILIES, seccomp._TYPES = list, (17,), (3, 3 | 1 << 19)"
    ),
    "ask about the network": "seccomp._FAMILIES = (16,)",
}


@pytest.mark.parametrize("attempt", REFUSED_BY)
def test_an_attempt_succeeds_without_its_protection(attempt: str, folder: Path) -> None:
    """So it is this protection that makes the attempt fail, not a mistake of the intruder."""
    if os.getuid() != 0 and attempt in OF_ROOT:
        pytest.skip("only root has capabilities")
    imports = "from worker.loader.sandbox import capabilities, seccomp, start"
    inherited = f"open({str(folder / 'secret')!r}, 'r+')"
    enter = f"file = {inherited}; start.enter([Path({str(folder)!r}), Path({str(INTRUDER)!r})])"
    inside = run(f"{imports}\n{enter}", folder, attempt)
    assert inside[attempt] in {"EPERM", "EACCES", "EAFNOSUPPORT"}
    without = run(f"{imports}\n{REFUSED_BY[attempt]}\n{enter}", folder, attempt)
    assert without == {attempt: "done"}


TELLING = """
import os, sys
os.write(2, b"".join(b"variable: %s=%s\\n" % item for item in os.environb.items()))
def where(): return sys.argv[0]
"""


def test_a_loader_gets_few_variables_and_has_limits(tmp_path: Path, monkeypatch, caplog) -> None:
    """It gets none of the worker's secrets, whatever their names are."""
    library = tmp_path / "library"
    library.mkdir()
    (library / "certifi.py").write_text(TELLING)
    monkeypatch.setenv("PYTHONPATH", str(library))
    for name in ("RESNEXT_BROKER_URL", "AWS_SECRET_ACCESS_KEY", "https_proxy", "MY_TOKEN"):
        monkeypatch.setenv(name, "redis://me:s3cr3t@10.0.0.1")
    settings = Settings(loaders=1, file_roots=(GOOD.parent,))
    assert "s3cr3t" in settings.broker()
    pool = Pool(settings)
    pool.inner.start()
    try:
        pool.load(GOOD)
        assert pool.answers(1) == [(GOOD.name, None)]
        table = Path(f"/proc/{pool.inner.processes[0].child.pid}/limits").read_text()
    finally:
        pool.inner.close()
    told = [line.partition("variable: ")[2] for line in caplog.text.splitlines()]
    names = {line.partition("=")[0] for line in filter(None, told)}
    assert "PYTHONPATH" in names
    assert names <= KEPT_VARIABLES | ADDED_VARIABLES.keys() | {"LC_CTYPE"}, (
        "Python itself sets LC_CTYPE"
    )
    assert not any("s3cr3t" in line for line in told)
    limits = " ".join(table.split())  # a single blank between columns
    most = LoaderConfig.of(settings, find_spec("resnext101_32x4d").preprocessing)
    assert f"address space {most.address_space_bytes} {most.address_space_bytes}" in limits
    assert "core file size 0 0" in limits


def test_seccomp_alone_refuses_what_landlock_does_not(folder: Path) -> None:
    """Only older kernels need some of this. On this kernel, Landlock may refuse it as well."""
    found = run(
        "from worker.loader.sandbox import prctl, seccomp\n"
        "prctl.prctl(prctl.PR_SET_NO_NEW_PRIVS, 1)\n"
        "assert seccomp.install()",
        folder,
    )
    assert {name for name, outcome in found.items() if outcome == "done"} - OF_ROOT == {
        *("read a file", "read the users", "list a folder", "read the parent's passwords"),
        *("make a file", "make a folder", "make a link", "make a pipe"),
        *("rename a file", "remove a file"),
    }


def test_protections_are_found_by_trying() -> None:
    assert find_out(Settings()) == Protections(tuple(ATTEMPTS), ())
    outside = find_out(Settings(sandbox="off"))
    # The container may itself refuse new privileges and core files.
    refused = set(ATTEMPTS) - set(outside.possible)
    assert refused <= {
        *("gain privileges", "leave core files", "use capabilities"),
        # The way a loader is started protects from these, not the sandbox.
        *("write to the worker's output", "reach a terminal", "inherit open files"),
    }
    assert "loaders can read other files" in str(outside)
    assert "RESNEXT_SANDBOX" in outside.advice


def test_a_worker_does_not_start_without_a_required_sandbox(monkeypatch, caplog) -> None:
    found = Protections((), tuple(ATTEMPTS))
    monkeypatch.setattr("worker.loader.sandbox.protections.find_out", lambda _: found)
    tell_protections(Settings())
    assert "sandbox: incomplete; loaders can read other files" in caplog.text
    tell_protections(Settings(sandbox="off"))
    assert "sandbox: off; loaders can read other files" in caplog.text
    with pytest.raises(UnavailableError, match="RESNEXT_SANDBOX is `required`"):
        tell_protections(Settings(sandbox="required"))


def test_a_complete_sandbox_is_logged_in_one_short_line(monkeypatch, caplog) -> None:
    """A list of everything that loaders cannot do would read like a list of failures."""
    found = Protections(tuple(ATTEMPTS), ())
    monkeypatch.setattr("worker.loader.sandbox.protections.find_out", lambda _: found)
    with caplog.at_level("INFO"):
        tell_protections(Settings())
    assert caplog.messages == ["sandbox: on; `resnextq doctor` lists what loaders cannot do"]


@pytest.mark.parametrize("program", ["os.abort()", "os.kill(os.getpid(), 6)"])
def test_a_decoder_that_aborts_still_ends_with_its_own_signal(tmp_path: Path, program: str) -> None:
    """The signal tells the worker what caused the crash."""
    assert inside(tmp_path, f"import os; {program}").returncode == -6


def test_any_number_of_paths_can_be_permitted(tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}\n\udcff" for n in range(3)] * 50_000
    assert read_permitted(write_permitted(paths)) == paths[:3]


def test_a_loader_ends_when_a_name_server_file_is_replaced(tmp_path: Path) -> None:
    """Its replacement can read the new file."""
    names = tmp_path / "resolv.conf"
    names.write_text("old")
    program = (
        "from pathlib import Path\n"
        "from worker.loader.sandbox import start as sandbox\n"
        "sandbox.LOOK_AGAIN_S = 0.01\n"
        f"paths = [Path({str(names)!r}), Path('/nowhere')]\n"
        "marks = sandbox._marks(paths)\n"
        "print('ready', flush=True)\n"
        "sandbox._leave_when_replaced(paths, marks)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (tmp_path / "new").write_text("new")
        (tmp_path / "new").rename(names)
        assert process.wait(WITHIN_S) == 0


def test_a_loader_ends_when_a_permitted_folder_appears(tmp_path: Path) -> None:
    folder = tmp_path / "mounted later"
    program = (
        "import threading\n"
        "from pathlib import Path\n"
        "from worker.loader.sandbox import start as sandbox\n"
        "sandbox.LOOK_AGAIN_S = 0.01\n"
        f"sandbox.enter(Path(path) for path in [{str(folder)!r}])\n"
        "print('ready', flush=True)\n"
        "threading.Event().wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        folder.mkdir()
        try:
            assert process.wait(WITHIN_S) == 0
        finally:
            process.kill()


def test_a_named_file_is_readable_and_its_neighbours_are_not(tmp_path: Path) -> None:
    named, neighbour = tmp_path / "named.png", tmp_path / "neighbour.png"
    for path in (named, neighbour):
        Image.new("RGB", (8, 8)).save(path)
    pool = Pool(Settings(loaders=1), named=[named])
    pool.inner.start()
    try:
        for path in (named, neighbour):
            pool.inner.load(path.as_uri(), pool._note(path.name), root=path)
        answers = {name: failure and failure.code for name, failure in pool.answers(2)}
    finally:
        pool.inner.close()
    assert answers == {named.name: None, neighbour.name: "unreadable"}


def test_every_format_is_decoded_inside(tmp_path: Path) -> None:
    """Each format's decoder is loaded with its first picture, inside the sandbox."""
    formats = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", *["AVIF"] * features.check("avif")]
    paths = [tmp_path / f"picture.{name.lower()}" for name in formats]
    for path in paths:
        Image.new("RGB", (64, 48), "red").save(path)
    lab = tmp_path / "lab.tiff"  # this needs a colour profile, which another library applies
    Image.new("LAB", (64, 48)).save(lab)
    pool = Pool(Settings(loaders=1, file_roots=(tmp_path,)))
    pool.inner.start()
    try:
        pool.load(*paths, lab)
        answers = dict(pool.answers(len(paths) + 1))
    finally:
        pool.inner.close()
    assert answers == dict.fromkeys([path.name for path in paths] + [lab.name])


def test_the_resampler_in_c_is_loaded_inside(tmp_path: Path) -> None:
    """Otherwise Pillow would resize instead, and only the time would show it."""
    pytest.importorskip("resnext.picture._resample")
    done = inside(tmp_path, "from resnext.picture import preprocess; print(preprocess.native)")
    assert done.stdout.startswith("<module 'resnext.picture.native'"), done.stderr


def test_names_are_resolved_inside() -> None:
    pool = Pool(Settings(loaders=1, fetch_allow=(LOOPBACK, "::1")))
    pool.inner.start()
    try:
        with serving("127.0.0.1") as site:
            uri = site.uris(1)[0].replace("127.0.0.1", "localhost")
            pool.inner.load(uri, pool._note("by its name"))
            assert pool.answers(1) == [("by its name", None)]
    finally:
        pool.inner.close()


def test_the_system_call_numbers_are_right_for_this_machine() -> None:
    """They are compared with the kernel's header. A wrong number would refuse another call."""
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if not header.exists():
        pytest.skip("the kernel's header is not installed")
    lines = [line.split() for line in header.read_text().splitlines()]
    numbers = {cells[1]: int(cells[2]) for cells in lines if len(cells) == 3}
    told = {f"__NR_{name}": number for name, (number, _) in seccomp._REFUSED.items()}
    assert {name: numbers.get(name, told[name]) for name in told} == told


def test_the_system_call_numbers_are_right_for_other_machines() -> None:
    """ARM64 uses the generic numbers, as all newer machines do."""
    header = Path("/usr/include/asm-generic/unistd.h")
    if not header.exists():
        pytest.skip("the kernel's header is not installed")
    lines = [line.split() for line in header.read_text().splitlines()]
    defined = [cells[1:3] for cells in lines if cells[:1] == ["#define"] and len(cells) == 3]
    numbers = {name: int(number) for name, number in defined if number.isdecimal()}
    told = {
        name: number for name, (_, number) in seccomp._REFUSED.items() if number != seccomp._NONE
    }
    found = {
        name: numbers.get(f"__NR_{name}", numbers.get(f"__NR3264_{name}", told[name]))
        for name in told
    }
    assert found == told
