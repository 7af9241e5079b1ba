"""The training of the bundled model on a few generated pictures: kill, resume and export."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from resnext.bundled.pictures import SIDE, Look, Pictures, hold_out, read_pictures
from resnext.bundled.recipe import Phase, Recipe
from resnext.bundled.train import MAX_BYTES, main, save_weights
from resnext.bundled.training import Pace, Training
from resnext.errors import WeightsError
from resnext.load import load_network
from resnext.network import ResNeXt
from resnext.spec.catalogue import BUNDLED, find_spec, wordnet_ids
from resnext.weights.random import normalise

CPU = torch.device("cpu")
CLASSES = 4
PER_CLASS = 10
HELD_OUT = 2
BATCH = 8
STEPS_AN_EPOCH = CLASSES * (PER_CLASS - HELD_OUT) // BATCH
RECIPE = Recipe(
    phases=(Phase(2, 16), Phase(1, 24)),
    batch_images=BATCH,
    peak_rate=0.05,
    warm_up_epochs=1,
    weight_decay=5e-4,
    label_smoothing=0.1,
    ema_decay=0.5,
    held_out_per_class=HELD_OUT,
    seed=3,
)
OPTIONS = ["--phases", "2:16", "1:24", "--batch-images", "8", "--held-out", "2"]


def draw_archive(path: Path, *, per_class: int = PER_CLASS, side: int = SIDE) -> Path:
    """Make an archive of pictures with noise around one colour for each class."""
    random = np.random.default_rng(7)
    with tarfile.open(path, "w") as archive:
        for wordnet_id in wordnet_ids()[:CLASSES]:
            colour = random.integers(40, 215, 3)
            for n in range(per_class):
                noise = random.integers(-40, 40, (side, side, 3))
                file = io.BytesIO()
                Image.fromarray((colour + noise).astype(np.uint8)).save(file, "jpeg")
                member = tarfile.TarInfo(f"train/{wordnet_id}/{n:03}.jpg")
                member.size = file.tell()
                file.seek(0)
                archive.addfile(member, file)
    return path


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: there is little work, and a second thread waits while other tests run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    return draw_archive(tmp_path_factory.mktemp("archive") / "train.tar")


@pytest.fixture
def pictures(archive, tmp_path) -> Pictures:
    return read(archive, tmp_path)


def read(archive: Path, folder: Path) -> Pictures:
    return read_pictures(archive, folder, {name: n for n, name in enumerate(wordnet_ids())})


def make(pictures: Pictures, state: Path, recipe: Recipe = RECIPE) -> Training:
    rows, _ = hold_out(pictures.labels, recipe.held_out_per_class, recipe.seed)
    small = replace(find_spec(BUNDLED), depths=(1, 1), stage_channels=(64, 128))
    return Training(recipe, small, pictures, rows, state)


def finish(training: Training) -> dict[str, torch.Tensor]:
    while not training.is_done:
        list(training.run_epoch())
    return training.averaged.module.state_dict()


def test_a_training_resumed_in_mid_epoch_gives_the_same_bits(pictures, tmp_path) -> None:
    unbroken = finish(make(pictures, tmp_path / "unbroken.pt"))

    first = make(pictures, tmp_path / "state.pt")
    list(first.run_epoch())
    list(islice(first.run_epoch(), STEPS_AN_EPOCH - 1))
    first.keep()
    second = make(pictures, tmp_path / "state.pt")
    assert second.resume()
    assert (second.epoch, second.step) == (1, STEPS_AN_EPOCH - 1)
    resumed = finish(second)

    assert all(torch.equal(resumed[name], tensor) for name, tensor in unbroken.items())


def test_a_state_of_another_recipe_is_refused(pictures, tmp_path) -> None:
    make(pictures, tmp_path / "state.pt").keep()
    other = Recipe(**vars(RECIPE) | {"seed": 4})
    with pytest.raises(WeightsError, match=r"of another recipe: .*seed=3.*delete it"):
        make(pictures, tmp_path / "state.pt", other).resume()


def test_an_incomplete_state_file_leaves_the_last_state(pictures, tmp_path) -> None:
    training = make(pictures, tmp_path / "state.pt")
    list(training.run_epoch())
    training.keep()
    (tmp_path / "state.part").write_bytes(b"half of a state")
    again = make(pictures, tmp_path / "state.pt")
    assert again.resume()
    assert again.epoch == 1


def test_it_learns(pictures, tmp_path) -> None:
    """After a few steps it distinguishes four colours in pictures that were held out."""
    recipe = Recipe(**vars(RECIPE) | {"phases": (Phase(6, 16),)})
    training = make(pictures, tmp_path / "state.pt", recipe)
    finish(training)
    _, held_out = hold_out(pictures.labels, HELD_OUT, RECIPE.seed)
    assert training.measure(held_out).top1 > 0.7


def test_the_finished_network_has_batch_norm_statistics_of_its_own_weights(
    pictures, tmp_path
) -> None:
    """The average lags far behind here, and its statistics with it."""
    training = make(pictures, tmp_path / "state.pt", replace(RECIPE, ema_decay=0.99))
    finish(training)
    before = {name: tensor.clone() for name, tensor in training.averaged.state_dict().items()}
    network = training.finished_network()
    rows, _ = hold_out(pictures.labels, HELD_OUT, RECIPE.seed)
    images = normalise(pictures.take(rows, CPU)[0], find_spec(BUNDLED).preprocessing)
    with torch.inference_mode():
        expected = network.conv1(images).mean((0, 2, 3))
    torch.testing.assert_close(network.bn1.running_mean, expected, rtol=0.02, atol=0.02)
    assert not network.training
    # The training itself is left as it was, so that it goes on to the same bits.
    after = training.averaged.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@contextmanager
def started(archive: Path, folder: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """Run the real command with its output in a pipe."""
    command = [sys.executable, "-m", "resnext.bundled.train", str(archive)]
    with subprocess.Popen(
        [*command, "--folder", str(folder), *OPTIONS, *more],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_line(process: subprocess.Popen[str], part: str) -> None:
    assert process.stdout is not None
    assert any(part in line for line in process.stdout)


def test_a_killed_and_restarted_training_gives_the_same_weights(archive, tmp_path) -> None:
    assert main([str(archive), "--folder", str(tmp_path / "unbroken"), *OPTIONS]) == 0
    with started(archive, tmp_path / "killed", "--keep-s", "0") as process:
        wait_for_line(process, "epoch 1: held-out")
        process.send_signal(signal.SIGKILL)
    with started(archive, tmp_path / "killed", "--keep-s", "0") as process:
        wait_for_line(process, "going on at epoch ")
        wait_for_line(process, ".safetensors: held-out")
        assert process.wait() == 0
    found, expected = (
        load_file(tmp_path / folder / f"{BUNDLED}.safetensors") for folder in ("killed", "unbroken")
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_terminated_training_keeps_its_state_and_says_so(archive, tmp_path) -> None:
    with started(archive, tmp_path) as process:
        wait_for_line(process, "epoch 1: held-out")
        process.terminate()
        wait_for_line(process, "told to end; the state is kept")
        assert process.wait() == 1
    assert (tmp_path / "state.pt").exists()
    assert "told to end" in (tmp_path / "log.txt").read_text()


def test_a_seed_decides_the_held_out_pictures_of_every_class(pictures) -> None:
    rows, held_out = hold_out(pictures.labels, HELD_OUT, seed=3)
    assert sorted([*rows.tolist(), *held_out.tolist()]) == list(range(CLASSES * PER_CLASS))
    assert pictures.labels[held_out].bincount().tolist() == [HELD_OUT] * CLASSES
    assert torch.equal(held_out, hold_out(pictures.labels, HELD_OUT, seed=3)[1])
    assert not torch.equal(held_out, hold_out(pictures.labels, HELD_OUT, seed=4)[1])


def test_held_out_pictures_do_not_influence_the_training(pictures, tmp_path) -> None:
    """Replacing the held-out pictures changes no bit of the weights."""
    _, held_out = hold_out(pictures.labels, HELD_OUT, RECIPE.seed)
    changed = np.array(pictures.pixels)
    changed[held_out.numpy()] = 0
    a = finish(make(pictures, tmp_path / "a.pt"))
    b = finish(make(Pictures(changed, pictures.labels), tmp_path / "b.pt"))
    assert all(torch.equal(b[name], tensor) for name, tensor in a.items())


def test_saved_weights_are_small_and_load_with_the_same_logits(pictures, tmp_path) -> None:
    rows, _ = hold_out(pictures.labels, HELD_OUT, RECIPE.seed)
    training = Training(RECIPE, find_spec(BUNDLED), pictures, rows, tmp_path / "state.pt")
    list(training.run_epoch())
    network = training.averaged.module
    path = tmp_path / f"{BUNDLED}.safetensors"
    save_weights(network, path)
    assert path.stat().st_size <= MAX_BYTES
    assert {tensor.dtype for tensor in load_file(path).values() if tensor.ndim > 1} == {
        torch.float16
    }

    trained = ResNeXt(find_spec(BUNDLED)).eval()
    trained.load_state_dict(
        {
            name: tensor.half().float() if tensor.ndim > 1 else tensor
            for name, tensor in network.state_dict().items()
        }
    )
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found = load_network(find_spec(BUNDLED), str(path)).network(images)
        assert torch.equal(found, trained(images))


def test_a_second_run_reuses_the_decoded_array(archive, tmp_path) -> None:
    first = read(archive, tmp_path)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    second = read(archive, tmp_path)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == before
    assert np.array_equal(first.pixels, second.pixels)
    assert first.labels.bincount().tolist() == [PER_CLASS] * CLASSES


def test_the_error_for_a_picture_of_another_size_names_it(tmp_path) -> None:
    wrong = draw_archive(tmp_path / "wrong.tar", per_class=1, side=32)
    with pytest.raises(ValueError, match=r"train/n01443537/000\.jpg is 32x32, not 64x64"):
        read(wrong, tmp_path)


def test_an_unknown_class_is_refused(archive, tmp_path) -> None:
    with pytest.raises(ValueError, match="lies in 'n01443537', which is not one of the classes"):
        read_pictures(archive, tmp_path, {"n00000000": 0})


def test_a_look_stays_within_the_picture() -> None:
    look = Look.draw(500, torch.Generator().manual_seed(0))
    corners = torch.tensor([[-1.0, -1.0, 1.0], [1.0, 1.0, 1.0]])
    places = corners @ look.grid.mT
    assert places.abs().max() <= 1 + 1e-6


def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero() -> None:
    assert RECIPE.rate_at(0) == 0
    assert RECIPE.rate_at(1) == RECIPE.peak_rate
    assert RECIPE.rate_at(3) == pytest.approx(0, abs=1e-12)
    assert [RECIPE.side_at(epoch) for epoch in range(3)] == [16, 16, 24]


def test_the_remaining_work_counts_the_size_of_later_pictures() -> None:
    assert RECIPE.pixels_left(0, 0, 10) == BATCH * 10 * (16**2 + 16**2 + 24**2)
    assert RECIPE.pixels_left(2, 4, 10) == BATCH * 6 * 24**2
    assert RECIPE.pixels_left(3, 0, 10) == 0


def test_a_pause_does_not_change_the_pace() -> None:
    pace = Pace()
    for seconds in (2.0, 2.0, 3600.0, 2.0):
        pace.add(seconds, 100)
    assert pace.seconds(50) == 1.0
