"""`make screenshots`: takes the pictures for docs/pages.md, from a real installation.

Starts `resnextq up` in a temporary home, opens its link in Chromium, submits the pictures of this
folder and a list, and takes screenshots of the pages once both jobs are done.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from demo.run import PICTURES, RESNEXTQ, choose_model, resnextq, running, serving, unused_port
from tests.servers.browser import Window, window
from tests.servers.browser import running as running_browser

IMAGES = Path(__file__).parents[1] / "docs" / "images"
NAMES = (
    "chelsea.jpg", "coffee.jpg", "goldfish.jpg", "red-panda.png", "koala.jpg", "bison.jpg",
    "arch.jpg", "shepherd.jpg",
)  # fmt: skip
TIMES = 60
"""How often the list contains each picture, each time with another address."""
WIDTH = 1200
TALLEST = 1500


def main() -> None:
    os.environ.pop("RESNEXT_BROKER_URL", None)
    os.environ.pop("RESNEXT_DATABASE_URL", None)
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="resnext-pages-") as folder, serving(PICTURES) as web:
        home = Path(folder) / "home"
        model, weights = choose_model()
        os.environ.update(
            RESNEXT_HOME=str(home),
            RESNEXT_MODEL=model,
            RESNEXT_WEIGHTS=weights,
            RESNEXT_FETCH_ALLOW="127.0.0.1",
            RESNEXT_FLOWER_PORT="0",
            RESNEXT_API_PORT="0",
            RESNEXT_RETRY_BACKOFF_S="0.5",
        )
        with running(home), running_browser() as browser:
            listed = submit_list(web)
            subprocess.run([RESNEXTQ, "status", listed, "--watch"], check=True)
            take_all(browser, home, listed)


def submit_list(web: str) -> str:
    """Submits a list; returns the job's id."""
    uris = [f"{web}/{name}?{n}" for n in range(TIMES) for name in NAMES]
    uris[7::40] = [f"{web}/gone-{n}.jpg" for n in range(len(uris[7::40]))]
    uris[20::90] = [f"{web}/words.jpg?{n}" for n in range(len(uris[20::90]))]
    uris[33::160] = [f"http://127.0.0.1:{unused_port()}/{n}.jpg" for n in range(len(uris[33::160]))]
    text = "\n".join(uris)
    return resnextq(
        "submit", "-", "--name", "catalogue", "--tag", "team=shop", "--tag", "run=7", stdin=text
    ).strip()


def take_all(browser: Any, home: Path, listed: str) -> None:  # noqa: ANN401  (playwright's)
    link = (home / "login-link").read_text().strip()
    size = {"viewport": {"width": WIDTH, "height": 800}}
    with window(browser, link.partition("/login")[0], **size) as shown:
        page = shown.page
        page.goto(link)
        page.set_input_files("#files", [str(PICTURES / name) for name in NAMES])
        page.locator("#progress .chip.completed").wait_for()
        page.locator(".card img").first.wait_for()
        dropped = page.url.partition("?")[0]
        page.fill("#name", "my pictures")
        page.get_by_role("button", name="Save").click()
        page.get_by_text("Saved.").wait_for()
        shown.go("/")
        take(shown, "start")
        shown.go(f"/jobs/{listed}")
        take(shown, "job")
        page.goto(f"{dropped}/images/0")
        take(shown, "image")
    report = home.with_name("report.html")
    resnextq("report", dropped.rpartition("/")[2], "--output", str(report))
    with window(browser, "file://", color_scheme="dark", **size) as shown:
        shown.page.goto(report.as_uri())
        take(shown, "report")


# Pictures further down load only when the page scrolls there.
SEEN_ARE_THERE = """[...document.images].every(
    (one) => one.complete || one.getBoundingClientRect().top >= innerHeight)"""


# The names of this machine and of its folders are nobody's business.
RENAME = """(names) => {
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode())
        for (const [from, to] of names)
            texts.currentNode.data = texts.currentNode.data.replaceAll(from, to);
}"""


def take(shown: Window, name: str) -> None:
    page = shown.page
    page.wait_for_load_state("load")
    home = os.environ["RESNEXT_HOME"]
    names = [(home, "/home/ann/.local/share/resnext-queue"), (socket.gethostname(), "gpu-1")]
    page.evaluate(RENAME, names)
    height = min(TALLEST, page.evaluate("document.documentElement.scrollHeight"))
    page.set_viewport_size({"width": WIDTH, "height": height})  # loads the pictures in view
    shown.until(SEEN_ARE_THERE)
    page.screenshot(path=IMAGES / f"{name}.png")
    sys.stdout.write(f"{name}.png\n")


if __name__ == "__main__":
    main()
