"""`make demo`: runs the whole system on this machine and prints a table of answers.

Starts `resnextq up` in a temporary home and a web server on loopback. Submits the pictures of this
folder, some over HTTP and some as files, with a few that cannot be classified, and prints the
result of each. The exit status is 1 if a result is not as expected.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from contract.settings import load_settings
from resnext.spec.catalogue import BUNDLED, find_spec
from worker.embedded import model as embedded
from worker.embedded.children import start_child, stop_child
from worker.embedded.service import RESNEXTQ

PICTURES = Path(__file__).parent / "pictures"
OVER_HTTP = (
    "chelsea.jpg",
    "coffee.jpg",
    "shepherd.jpg",
    "goldfish.jpg",
    "bison.jpg",
    "koala.jpg",
    "arch.jpg",
    "chelsea-grey.jpg",
    "coffee-cmyk.jpg",
    "goldfish-palette.png",
    "chelsea-animated.gif",
)
AS_FILES = (
    "red-panda.png",
    "shepherd-rgba.png",
    "coffee-rotated.jpg",
    "truncated.jpg",
    "words.jpg",
)
# Pictures that cannot be classified, with the expected error codes.
FAILURES = {
    "truncated.jpg": "truncated",
    "words.jpg": "not_an_image",
    "not-there.jpg": "http_404",
    "dead-link.jpg": "connect",
}
# The class of each photograph, by ImageNet's label. A file made from it has a longer name.
SHOWS = {
    "arch": "triumphal arch",
    "bison": "bison",
    "chelsea": "tabby",
    "coffee": "espresso",
    "goldfish": "goldfish",
    "koala": "koala",
    "red-panda": "lesser panda",
    "shepherd": "German shepherd",
}
BAR_COLUMNS = 10
START_WITHIN_S = 120.0
DOWNLOAD_WITHIN_S = 1800.0
POLL_S = 0.1

console = Console()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Runs a web server on loopback; gives its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def choose_model() -> tuple[str, str]:
    """The model and weights that `resnextq up` would choose."""
    with console.status("Looking for the weights"):
        settings, note = embedded.choose_model(load_settings())
    if note:
        console.print(note, soft_wrap=True, markup=False)
    return settings.model, settings.weights


@contextmanager
def running(home: Path) -> Iterator[None]:
    """Runs `resnextq up` for the `with` block, which starts when the worker is ready."""
    log = home.with_name("up.log")
    up = start_child([RESNEXTQ, "up"], log=log)
    try:
        with console.status("Starting") as status:
            deadline = time.monotonic() + START_WITHIN_S
            while "\nReady: " not in (said := log.read_text()):
                if "Downloading" in said:
                    deadline = time.monotonic() + DOWNLOAD_WITHIN_S
                if up.poll() is not None or time.monotonic() > deadline:
                    console.print(said, markup=False)
                    sys.exit("`resnextq up` did not start.")
                status.update(f"Starting: {' '.join(said.splitlines()[-1:]).strip()}")
                time.sleep(POLL_S)
        yield
    finally:
        with console.status("Stopping"):
            stop_child(up, within_s=60)
    if up.returncode != 0:
        sys.exit(f"`resnextq up` ended with status {up.returncode}:\n{log.read_text()}")


def resnextq(*arguments: str, stdin: str = "") -> str:
    done = subprocess.run(
        [RESNEXTQ, *arguments], input=stdin, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def uris(web: str) -> list[str]:
    return [
        *(f"{web}/{name}" for name in OVER_HTTP),
        *((PICTURES / name).as_uri() for name in AS_FILES),
        f"{web}/not-there.jpg",
        f"http://127.0.0.1:{unused_port()}/dead-link.jpg",
    ]


def name_of(result: dict[str, Any]) -> str:
    """The file's name."""
    name: str = result["uri"].rpartition("/")[2]
    return name


def truth_of(name: str) -> str:
    """What a picture shows."""
    return next(label for start, label in SHOWS.items() if name.startswith(start))


def is_right(result: dict[str, Any]) -> bool:
    """Whether a classified picture got its class."""
    right: bool = result["top5"][0]["label"] == truth_of(name_of(result))
    return right


def tables_of(results: list[dict[str, Any]]) -> Group:
    """The likeliest class of each picture with its score; and why others have no class."""
    classes = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    classes.add_column("picture", no_wrap=True)
    classes.add_column("likeliest class")
    classes.add_column("score", no_wrap=True)
    classes.add_column("", no_wrap=True, justify="right")
    failures = Table("picture", "why it has no class", box=box.SIMPLE_HEAD, pad_edge=False)
    for result in results:
        name = name_of(result)
        if result["status"] == "classified":
            score = result["top5"][0]["score"]
            bar = ProgressBar(total=1, completed=score, width=BAR_COLUMNS)
            classes.add_row(name, _class_of(result), bar, f"{score:.0%}")
        else:
            error = result["error"]
            failures.add_row(name, Text.assemble((error["code"], "red"), f": {error['detail']}"))
    return Group(classes, failures)


def _class_of(result: dict[str, Any]) -> Text:
    label = result["top5"][0]["label"]
    if is_right(result):
        return Text(f"✓ {label}", "green")
    return Text.assemble((f"✗ {label}", "yellow"), f" (shows: {truth_of(name_of(result))})")


def summary_of(results: list[dict[str, Any]]) -> str:
    """Counts right classes, and pictures without one."""
    classified = [result for result in results if result["status"] == "classified"]
    right = sum(map(is_right, classified))
    return (
        f"{right} of {len(classified)} classes are right. "
        f"{len(results) - len(classified)} pictures are broken or missing on purpose."
    )


def unexpected(submitted: list[str], results: list[dict[str, Any]]) -> list[str]:
    """The results that are not as expected."""
    if [result["uri"] for result in results] != submitted:
        return [f"{len(results)} results for {len(submitted)} pictures, or not the same ones"]
    return [
        f"{result['uri']}: {result.get('error', 'classified')}, not {expected or 'classified'}"
        for result in results
        if (expected := FAILURES.get(name_of(result))) != result.get("error", {}).get("code")
    ]


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="resnext-demo-") as folder, serving(PICTURES) as web:
        os.chdir(folder)  # away from your `.env`, so that the demo uses none of your servers
        home = Path(folder) / "home"
        model, weights = choose_model()
        os.environ.update(
            RESNEXT_HOME=str(home),
            RESNEXT_MODEL=model,
            RESNEXT_WEIGHTS=weights,
            RESNEXT_FETCH_ALLOW="127.0.0.1",
            RESNEXT_FILE_ROOTS=str(PICTURES),
            RESNEXT_FLOWER_PORT="0",
            RESNEXT_BATCH_IMAGES="8",
            RESNEXT_RETRY_BACKOFF_S="0.5",
        )
        for elsewhere in ("RESNEXT_BROKER_URL", "RESNEXT_DATABASE_URL"):
            os.environ.pop(elsewhere, None)
        console.print("Starting the whole system in a temporary home: `resnextq up`", markup=False)
        with running(home):
            submitted = uris(web)
            job = resnextq("submit", "-", "--name", "demo", stdin="\n".join(submitted)).strip()
            subprocess.run([RESNEXTQ, "status", job, "--watch"], check=True)
            results = [json.loads(line) for line in resnextq("results", job).splitlines()]
        console.print(tables_of(results))
        console.print(summary_of(results), soft_wrap=True)
        if model == BUNDLED:
            knows = len(find_spec(model).categories)
            console.print(
                f"The small model knows {knows} of ImageNet's 1000 classes and is often wrong.",
                soft_wrap=True,
            )
        console.print(
            f"Job {job}, classified by {results[0]['model']}; its home is removed now.",
            soft_wrap=True,
        )
    say_what_is_next()
    faults = unexpected(submitted, results)
    for fault in faults:
        console.print(f"[red]{fault}[/]", soft_wrap=True)
    return 1 if faults else 0


def say_what_is_next() -> None:
    console.print("\nNext, with your own pictures. In this folder:\n")
    activated = shutil.which("resnextq") == str(RESNEXTQ)
    if not activated:
        console.print('  export PATH="$PWD/.venv/bin:$PATH"', markup=False)
    console.print("  export RESNEXT_FILE_ROOTS=/a/folder/of/pictures")
    console.print("  resnextq up")
    console.print("\nOnce it says Ready, in a second terminal in this folder:\n")
    if not activated:
        console.print('  export PATH="$PWD/.venv/bin:$PATH"', markup=False)
    console.print("  resnextq submit /a/folder/of/pictures --wait && resnextq results last")


if __name__ == "__main__":
    sys.exit(main())
