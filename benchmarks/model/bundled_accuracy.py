"""The bundled model's accuracy, measured as a job through the whole queue.

    python -m benchmarks.model.bundled_accuracy cifar10-test.tar.gz

The archive holds `<anything>/<class>/<name>.jpg`. Runs the real commands (`dispatch`, `worker`,
`submit`, `results`) on SQLite over loopback HTTP, and beside it the classifier alone on the same
files in the same precision. Prints both accuracies and how many images they answer differently.
Exit status 1 where an image has no row or no class.
"""

from __future__ import annotations

import argparse
import sys
import tarfile
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.system.main_job import run_on, serving
from resnext import load_classifier
from resnext.spec.catalogue import BUNDLED


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("archive", type=Path, help="a tar file of pictures in folders by class")
    arguments.add_argument("--precision", choices=("amp", "fp32"), default="fp32")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with tarfile.open(chosen.archive) as archive:
            archive.extractall(folder / "web", filter="data")
        files = sorted((folder / "web").rglob("*.jpg"))
        with serving(folder / "web") as web:
            uris = [f"{web}/{file.relative_to(folder / 'web')}" for file in files]
            wanted = {
                "RESNEXT_MODEL": BUNDLED,
                "RESNEXT_WEIGHTS": "bundled",
                "RESNEXT_PRECISION": chosen.precision,
            }
            results, seconds = run_on(folder / "installation", "sqlite", uris, wanted)
        classifier = load_classifier(BUNDLED, precision=chosen.precision)
        alone = [answer.top5[0].label for answer in classifier.predict(files)]
    through_queue = [
        result["top5"][0]["label"] if result["status"] == "classified" else None
        for result in results
    ]
    truth = [file.parent.name for file in files]
    table = Table("", "images", "right", "accuracy")
    for what, labels in (("through the queue", through_queue), ("the classifier alone", alone)):
        right = sum(a == b for a, b in zip(labels, truth, strict=True))
        table.add_row(what, f"{len(labels):,}", f"{right:,}", f"{right / len(truth):.2%}")
    Console().print(table)
    differing = sum(a != b for a, b in zip(through_queue, alone, strict=True))
    print(f"{differing} images are answered differently; {len(files) / seconds:,.0f} images/s")
    return 1 if None in through_queue else 0


if __name__ == "__main__":
    sys.exit(main())
