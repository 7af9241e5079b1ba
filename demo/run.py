"""`make demo`: the whole system on this machine, from nothing to a table of answers.

Starts `resnextq up` in a temporary home and a web server on loopback, submits the pictures
of this folder, some over HTTP and some as files, with a few that cannot be classified, and
prints what became of each. Exit status 1 where that is not what it should be.
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
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from rich.console import Console
from rich.table import Table

from contract.settings import load_settings
from resnext.spec.catalogue import BUNDLED, find_spec
from resnext.spec.model import PublishedWeights
from worker.embedded.children import start_child, stop_child
from worker.embedded.service import RESNEXTQ

PICTURES = Path(__file__).parent / "pictures"
OVER_HTTP = (
    "chelsea.jpg",
    "coffee.jpg",
    "astronaut.jpg",
    "rocket.jpg",
    "coins.jpg",
    "clock.jpg",
    "hubble.jpg",
    "chelsea-grey.jpg",
    "coffee-cmyk.jpg",
    "rocket-palette.png",
    "chelsea-animated.gif",
)
AS_FILES = ("horse.png", "astronaut-rgba.png", "coffee-rotated.jpg", "truncated.jpg", "words.jpg")
# What cannot be classified, and what is to be said of it.
FAILURES = {
    "truncated.jpg": "truncated",
    "words.jpg": "not_an_image",
    "not-there.jpg": "http_404",
    "dead-link.jpg": "connect",
}
ANSWER_WITHIN_S = 4.0
START_WITHIN_S = 120.0
DOWNLOAD_WITHIN_S = 1800.0
POLL_S = 0.1

console = Console()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a web server on loopback."""
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
    """Model and weights as the settings say or, where those would have to be downloaded and
    cannot be, the small bundled model.
    """
    settings = load_settings()
    file = find_spec(settings.model).weights.get(settings.weights)
    if (
        not isinstance(file, PublishedWeights)
        or (settings.cache / "weights" / file.file_name).exists()
        or answers(file.address)
    ):
        return settings.model, settings.weights
    console.print(
        f"No answer from {urlsplit(file.address).hostname}, where the weights are: "
        f"taking the small bundled model, {BUNDLED}.",
        soft_wrap=True,
    )
    return BUNDLED, find_spec(BUNDLED).weights_names[0]


def answers(url: str) -> bool:
    """Whether the server gives the file, within a few seconds, whatever it is that hangs."""
    found: list[int] = []

    def ask() -> None:
        try:
            with urlopen(Request(url), timeout=ANSWER_WITHIN_S) as response:  # the head alone
                found.append(response.status)
        except OSError:
            pass

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(ANSWER_WITHIN_S)
    return bool(found)


@contextmanager
def running(home: Path) -> Iterator[None]:
    """`resnextq up`, until the worker is ready and then until the end of the block."""
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


def table_of(results: list[dict[str, Any]]) -> Table:
    table = Table("picture", "from", "top-5 classes, or the reason why there are none")
    for result in results:
        address = urlsplit(result["uri"])
        what = address.path.rpartition("/")[2]
        if result["status"] == "classified":
            answer = ", ".join(f"{guess['label']} {guess['score']:.1%}" for guess in result["top5"])
        else:
            answer = f"[red]{result['error']['code']}[/]: {result['error']['detail']}"
        table.add_row(what, address.scheme, answer)
    return table


def unexpected(submitted: list[str], results: list[dict[str, Any]]) -> list[str]:
    """What is not as it should be."""
    if [result["uri"] for result in results] != submitted:
        return [f"{len(results)} results for {len(submitted)} pictures, or of others"]
    return [
        f"{result['uri']}: {result.get('error', 'classified')}, not {expected or 'classified'}"
        for result in results
        if (expected := FAILURES.get(result["uri"].rpartition("/")[2]))
        != result.get("error", {}).get("code")
    ]


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="resnext-demo-") as folder, serving(PICTURES) as web:
        os.chdir(folder)  # away from a `.env` of yours: the demo touches none of your servers
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
        console.print(table_of(results))
        if model == BUNDLED:
            knows = ", ".join(find_spec(model).categories)
            console.print(f"This small model knows nothing but: {knows}.", soft_wrap=True)
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
    console.print("\nNext, with pictures of your own:\n")
    activated = shutil.which("resnextq") == str(RESNEXTQ)
    if not activated:
        console.print('  export PATH="$PWD/.venv/bin:$PATH"', markup=False)
    console.print("  export RESNEXT_FILE_ROOTS=/a/folder/of/pictures")
    console.print("  resnextq up                                  # in one terminal")
    console.print("  resnextq submit /a/folder/of/pictures --wait # in another")


if __name__ == "__main__":
    sys.exit(main())
