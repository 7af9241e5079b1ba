"""The bundled model's accuracy, measured as a job through the whole queue.

    python -m benchmarks.model.bundled_accuracy tiny-imagenet-test.tar.gz

The archive holds `<anything>/<WordNet id>/<name>.jpg`. Runs the real commands (`dispatch`,
`worker`, `submit`, `results`) on SQLite over loopback HTTP, and beside it the classifier alone on
the same files in the same precision. Prints both accuracies, and how many images have different
classes or another order of them.
Exit status 1 if an image has no row or no class.
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
from resnext.spec.catalogue import BUNDLED, find_spec, wordnet_ids


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
        alone = [[guess.label for guess in answer.top5] for answer in classifier.predict(files)]
    through_queue = [[guess["label"] for guess in result.get("top5") or []] for result in results]
    label_of = dict(zip(wordnet_ids(), find_spec(BUNDLED).categories, strict=True))
    truth = [label_of[file.parent.name] for file in files]
    table = Table("", "images", "top-1", "top-5")
    for what, labels in (("through the queue", through_queue), ("the classifier alone", alone)):
        first = sum(right in five[:1] for right, five in zip(truth, labels, strict=True))
        among = sum(right in five for right, five in zip(truth, labels, strict=True))
        shares = (f"{count / len(truth):.2%}" for count in (first, among))
        table.add_row(what, f"{len(labels):,}", *shares)
    Console().print(table)
    differing = sum(a != b for a, b in zip(through_queue, alone, strict=True))
    print(f"{differing} images are answered differently; {len(files) / seconds:,.0f} images/s")
    return 0 if all(through_queue) else 1


if __name__ == "__main__":
    sys.exit(main())
