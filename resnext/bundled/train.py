"""Trains `resnext_tiny_imagenet` from scratch, on 200 of ImageNet's classes at 64x64 pixels.

    python -m resnext.bundled.train tiny-imagenet-train.tar.gz --folder training
    python -m resnext.bundled.train test.tar.gz --folder training --test

An archive holds `<anything>/<WordNet id>/<name>.jpg`. Some pictures of each class are held out.
They are measured after each epoch and decide nothing. The first command writes its state every few
minutes and when a signal stops it. Started again, it continues from there. At the end it writes the
weights to the folder as safetensors; `--export` writes the weights of an unfinished training.
`--test` measures them on a second archive that the training never sees.

`log.txt` in the folder gets a line a minute. Pauses (SIGSTOP, SIGCONT) do not distort its rates.

The recipe: SGD with Nesterov momentum; one cycle of the learning rate (Smith, Super-Convergence,
2018); smaller pictures than are classified later (Touvron et al., Fixing the train-test resolution
discrepancy, 2019); crops of random size and place, mirrored, with a little contrast and brightness;
no weight decay on batch-norms and biases; label smoothing (Szegedy et al., 2016); an exponential
moving average of the weights, whose batch-norm statistics are measured again (Izmailov et al.,
Averaging Weights Leads to Wider Optima, 2018).
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Final

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from safetensors.torch import save_file
from torch import Tensor, nn

from resnext.bundled.pictures import Pictures, hold_out, read_pictures
from resnext.bundled.recipe import Phase, Recipe
from resnext.bundled.training import Accuracy, Progress, Training, measure
from resnext.load import load_network
from resnext.spec.catalogue import BUNDLED, find_spec, wordnet_ids
from resnext.weights.random import normalise

LOG_S: Final = 60.0
MAX_BYTES: Final = 6_000_000
"""The largest size of the weights file, which is part of the package."""

console = Console()


def main(arguments: list[str] | None = None) -> int:
    chosen = _parser().parse_args(arguments)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    weights = chosen.folder / f"{BUNDLED}.safetensors"
    classes = {wordnet_id: label for label, wordnet_id in enumerate(wordnet_ids())}
    pictures = read_pictures(chosen.archive, chosen.folder / "decoded", classes)
    if chosen.test:
        everything = torch.arange(len(pictures.labels))
        console.print(f"test: {measure_file(weights, pictures, everything)}")
        return 0
    recipe = _recipe(chosen)
    rows, held_out = hold_out(pictures.labels, recipe.held_out_per_class, recipe.seed)
    training = Training(recipe, find_spec(BUNDLED), pictures, rows, chosen.folder / "state.pt")
    run = Run(training, held_out, chosen.folder / "log.txt", chosen.keep_s)
    run.log(f"{len(rows):,} pictures to train on, {len(held_out):,} held out; {training.device}")
    if training.resume():
        run.log(f"going on at epoch {training.epoch + 1}, step {training.step}")
    if not chosen.export and not run.to_the_end(recipe.epochs):
        return 1
    save_weights(training.finished_network(), weights)
    run.log(f"{weights}: held-out {measure_file(weights, pictures, held_out)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path, help="a tar file of pictures")
    parser.add_argument("--folder", type=Path, required=True, help="for state, log and weights")
    parser.add_argument("--test", action="store_true", help="only measure the weights")
    parser.add_argument("--export", action="store_true", help="only write the weights so far")
    parser.add_argument(
        "--phases",
        type=Phase.parse,
        nargs="+",
        default=[Phase(16, 48)],
        metavar="EPOCHS:SIDE",
        help="epochs and the pictures' side in pixels (16:48)",
    )
    parser.add_argument("--batch-images", type=int, default=128, help="a step's pictures (128)")
    parser.add_argument("--peak-rate", type=float, default=0.2, help="of learning (0.2)")
    parser.add_argument("--held-out", type=int, default=10, help="pictures a class (10)")
    parser.add_argument("--seed", type=int, default=200, help="of weights and order (200)")
    parser.add_argument("--keep-s", type=float, default=180.0, help="seconds between states (180)")
    return parser


def _recipe(chosen: argparse.Namespace) -> Recipe:
    return Recipe(
        phases=tuple(chosen.phases),
        batch_images=chosen.batch_images,
        peak_rate=chosen.peak_rate,
        warm_up_epochs=min(2.0, sum(phase.epochs for phase in chosen.phases) / 4),
        weight_decay=5e-4,
        label_smoothing=0.1,
        ema_decay=0.999,
        held_out_per_class=chosen.held_out,
        seed=chosen.seed,
    )


class Run:
    """A training as its user sees it: progress bar, log, kept states, and a stop by a signal."""

    def __init__(self, training: Training, held_out: Tensor, log: Path, keep_s: float) -> None:
        self._training = training
        self._held_out = held_out
        self._log = log
        self._keep_s = keep_s
        self._kept = self._logged = time.monotonic()
        self._accuracy: Accuracy | None = None
        self._is_told_to_end = False

    def to_the_end(self, epochs: int) -> bool:
        """
        Returns:
            True if the training is done; False if a signal stopped it. The state is kept.
        """
        with self._bar() as bar, self._signals():
            task = bar.add_task("training", total=epochs * self._training.steps_an_epoch, told="")
            while not self._training.is_done:
                for progress in self._training.run_epoch():
                    bar.update(task, completed=progress.done, told=self._told(progress))
                    self._between_steps(progress)
                    if self._is_told_to_end:
                        self.log("told to end; the state is kept")
                        return False
                self._accuracy = self._training.measure(self._held_out)
                self.log(f"epoch {self._training.epoch}: held-out {self._accuracy}")
        return True

    def _between_steps(self, progress: Progress) -> None:
        now = time.monotonic()
        is_epoch_done = self._training.step == 0
        if self._is_told_to_end or is_epoch_done or now - self._kept >= self._keep_s:
            self._training.keep()
            self._kept = now
        if now - self._logged >= LOG_S:
            self.log(self._told(progress))
            self._logged = now

    def _told(self, progress: Progress) -> str:
        left = timedelta(seconds=round(progress.seconds_left))
        accuracy = f", held-out {self._accuracy}" if self._accuracy else ""
        return (
            f"epoch {progress.epoch + 1}, step {progress.done:,}, loss {progress.loss:.3f}"
            f"{accuracy}, {progress.images_per_s:,.0f} images/s, left {left}"
        )

    def log(self, line: str) -> None:
        """Writes a line to the log and to the screen."""
        console.print(line, highlight=False, soft_wrap=True)
        with self._log.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {line}\n")

    def _bar(self) -> Bar:
        return Bar(
            BarColumn(20), MofNCompleteColumn(), TextColumn("{task.fields[told]}"),
            console=console, disable=not console.is_terminal,
        )  # fmt: skip

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C stop the training after the current step."""

        def tell(_signal: int, _frame: FrameType | None) -> None:
            self._is_told_to_end = True

        before = {one: signal.signal(one, tell) for one in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)


def save_weights(network: nn.Module, path: Path) -> None:
    """Writes batch-norms, whose range is larger, in fp32 and all other weights in fp16.

    Raises:
        ValueError: the file would have more than `MAX_BYTES`.
    """
    tensors = {
        name: (tensor.half() if tensor.ndim > 1 else tensor).cpu().contiguous()
        for name, tensor in network.state_dict().items()
        if tensor.is_floating_point()
    }
    size = sum(tensor.nbytes for tensor in tensors.values())
    if size > MAX_BYTES:
        raise ValueError(f"Weights of {size:,} bytes are more than {MAX_BYTES:,}.")
    part = path.with_suffix(".part")
    save_file(tensors, part)
    part.replace(path)


def measure_file(weights: Path, pictures: Pictures, rows: Tensor) -> Accuracy:
    """Measures the network in fp32, loaded as the product loads it."""
    spec = find_spec(BUNDLED)
    network = load_network(spec, str(weights)).network

    def classify(images: Tensor) -> Tensor:
        logits: Tensor = network(normalise(images, spec.preprocessing))
        return logits

    return measure(classify, pictures, rows, torch.device("cpu"))


if __name__ == "__main__":
    sys.exit(main())
