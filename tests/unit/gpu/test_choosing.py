"""Which way computes a layer: the fastest correct one, measured once and kept."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from resnext.run.layers.choice import Choice
from resnext.run.layers.choose import Chooser
from resnext.run.layers.kind import Run
from resnext.run.layers.passes import Passes
from resnext.run.layers.shape import ConvShape
from resnext.run.layers.store import Store

CPU = torch.device("cpu")
SHAPE = ConvShape(
    kernel=1, in_channels=4, out_channels=8, groups=1, stride=1, padding=0, side=3, after="relu"
)  # fmt: skip
OTHER = ConvShape(
    kernel=3, in_channels=8, out_channels=8, groups=2, stride=2, padding=1, side=4, after="add_relu"
)  # fmt: skip
SHAPES = {SHAPE: 3, OTHER: 1}
ABOUT = {"device": "NVIDIA Double", "torch": "2.15"}


class Clock:
    """A timer, and the device that it measures."""

    def __init__(self) -> None:
        self.now = 0.0
        self.asked = 0
        self.broken: Exception | None = None

    def seconds(self, run: Callable[[], object]) -> float:
        self.asked += 1
        began = self.now
        run()
        return self.now - began

    def wait(self) -> None:
        if self.broken is not None:
            raise self.broken


class Way:
    """A way that takes this much time and may change its result."""

    def __init__(
        self,
        clock: Clock,
        name: str,
        cost: float,
        change: Callable[[Tensor], Tensor] = lambda made: made,
    ) -> None:
        self.name, self._clock, self._cost, self._change = name, clock, cost, change

    def suits(self, shape: ConvShape, device: torch.device) -> bool:
        return True

    def build(self, shape: ConvShape, weight: Tensor, bias: Tensor | None) -> Run:
        right = Passes().build(shape, weight, bias)

        def run(x: Tensor, around: Tensor | None) -> Tensor:
            self._clock.now += self._cost
            return self._change(right(x, around))

        return run


def failing(error: Exception) -> Callable[[Tensor], Tensor]:
    def fail(_: Tensor) -> Tensor:
        raise error

    return fail


@pytest.fixture
def clock() -> Clock:
    return Clock()


def chooser(clock: Clock, kinds: Sequence[Way], store: Store | None = None) -> Chooser:
    return Chooser(
        SHAPES,
        dtype=torch.float16,
        device=CPU,
        kinds=kinds,
        timer=clock,
        store=store or Store(None, ABOUT),
    )


def chosen(choices: Sequence[Choice]) -> list[str]:
    return [choice.chosen.name for choice in choices if choice.chosen is not None]


def test_the_fastest_correct_way_wins(clock) -> None:
    ways = [Way(clock, "slow", 3.0), Way(clock, "fast", 1.0), Way(clock, "usual", 2.0)]
    choices = chooser(clock, ways).choose(5)
    assert chosen(choices) == ["fast", "fast"]
    assert [(one.shape, one.times, one.images) for one in choices] == [(SHAPE, 3, 5), (OTHER, 1, 5)]
    assert [one.seconds for one in choices[0].candidates] == [3.0, 1.0, 2.0]
    assert all(one.error is not None and one.error < 1e-3 for one in choices[0].candidates)
    assert str(choices[1].subject) == (
        "3x3, 8 to 8 channels, 2 groups, stride 2, 4x4, add, relu"
    )  # fmt: skip


def test_a_wrong_way_is_left_out_however_fast_and_that_is_logged_once(clock, caplog) -> None:
    ways = [Way(clock, "wrong", 0.1, lambda made: made * 1.01), Way(clock, "right", 2.0)]
    choices = chooser(clock, ways).choose(2)
    assert chosen(choices) == ["right", "right"]
    wrong = choices[0].candidates[0]
    assert (wrong.name, wrong.seconds) == ("wrong", None)
    assert "relative error is 1.0e-02" in str(wrong.fault)
    assert caplog.text.count("'wrong' is left out for 1x1, 4 to 8 channels") == 1
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("GET was unable to find an engine to execute this computation"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        torch.AcceleratorError("CUDA error: invalid argument"),  # not a sticky error
        AttributeError("module 'torch' has no attribute 'cudnn_convolution_relu'"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_way_that_fails_is_left_out_and_that_is_logged_once(clock, error, caplog) -> None:
    ways = [Way(clock, "fails", 0.1, failing(error)), Way(clock, "right", 2.0)]
    choices = chooser(clock, ways).choose(2)
    assert chosen(choices) == ["right", "right"]
    assert choices[0].candidates[0].fault == str(error)
    assert len(caplog.records) == 1
    assert f"'fails' is left out for {SHAPE}: {error}" in caplog.text


def test_a_device_that_breaks_does_not_count_as_a_way_that_fails(clock, caplog) -> None:
    error = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    def break_down(_: Tensor) -> Tensor:
        clock.broken = error
        raise error

    ways = [Way(clock, "breaks", 0.1, break_down), Way(clock, "right", 2.0)]
    with pytest.raises(torch.AcceleratorError, match="illegal memory access"):
        chooser(clock, ways).choose(2)
    assert caplog.text == ""


class Overwriting(Way):
    """Writes its result over its input `around`."""

    def build(self, shape: ConvShape, weight: Tensor, bias: Tensor | None) -> Run:
        right = super().build(shape, weight, bias)

        def run(x: Tensor, around: Tensor | None) -> Tensor:
            made = right(x, around)
            return made if around is None else around.copy_(made)

        return run


def test_a_way_that_overwrites_its_input_does_not_spoil_the_others(clock, caplog) -> None:
    ways = [Overwriting(clock, "in place", 2.0), Way(clock, "right", 1.0)]
    assert chosen(chooser(clock, ways).choose(2)) == ["right", "right"]
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), torch.OutOfMemoryError),
        (RuntimeError("no engine"), RuntimeError),
    ],
)
def test_if_no_way_is_left_the_reasons_are_in_the_error(clock, error, raised) -> None:
    """The error stays an out-of-memory error, so that the classifier halves its batches."""
    ways = [Way(clock, "a", 1.0, failing(RuntimeError("no"))), Way(clock, "b", 1.0, failing(error))]
    with pytest.raises(
        raised, match=r"No way to compute 1x1.* for 2 pictures works: a: no; b: "
    ) as caught:
        chooser(clock, ways).choose(2)
    assert type(caught.value) is raised


# Kept on disk


def measured(clock: Clock, store: Store, *ways: Way) -> tuple[list[Choice], int]:
    """Returns the choices, and how often the timer was used for them."""
    before = clock.asked
    found = chooser(clock, ways or [Way(clock, "a", 2.0), Way(clock, "b", 1.0)], store).choose(4)
    return found, clock.asked - before


def test_a_stored_choice_is_not_measured_again(clock, tmp_path: Path) -> None:
    first, asked = measured(clock, Store(tmp_path, ABOUT))
    again, asked_again = measured(clock, Store(tmp_path, ABOUT))
    assert (asked, asked_again) == (4, 0)
    assert again == first
    assert chosen(again) == ["b", "b"]
    assert [file.suffix for file in (tmp_path / "layers").iterdir()] == [".json"]


@pytest.mark.parametrize("other", [{"device": "NVIDIA T4"}, {"torch": "2.11"}, {"cudnn": "92600"}])
def test_choices_of_another_device_or_version_are_not_used(clock, tmp_path: Path, other) -> None:
    measured(clock, Store(tmp_path, ABOUT))
    assert measured(clock, Store(tmp_path, ABOUT | other))[1] == 4
    assert measured(clock, Store(tmp_path, ABOUT))[1] == 0, "both are kept"


def test_another_batch_size_is_measured_and_both_are_kept(clock, tmp_path: Path) -> None:
    ways = [Way(clock, "a", 2.0)]
    for images in (4, 2):
        chooser(clock, ways, Store(tmp_path, ABOUT)).choose(images)
    assert clock.asked == 4
    for images in (4, 2):
        chooser(clock, ways, Store(tmp_path, ABOUT)).choose(images)
    assert clock.asked == 4


def test_choices_that_another_process_stores_meanwhile_stay(clock, tmp_path: Path) -> None:
    ways = [Way(clock, "a", 2.0)]
    first, second = (chooser(clock, ways, Store(tmp_path, ABOUT)) for _ in range(2))
    first.choose(4)
    second.choose(2)
    again = chooser(clock, ways, Store(tmp_path, ABOUT))
    assert again.known(4) is not None
    assert again.known(2) is not None


def test_if_a_stored_way_no_longer_exists_the_choice_is_measured_again(
    clock, tmp_path: Path
) -> None:
    measured(clock, Store(tmp_path, ABOUT))
    found, asked = measured(clock, Store(tmp_path, ABOUT), Way(clock, "a", 2.0))
    assert (chosen(found), asked) == (["a", "a"], 2)


def _change(text: str, change: Callable[[Any], object]) -> str:
    content = json.loads(text)
    change(content)
    return json.dumps(content)


DAMAGES: dict[str, Callable[[str], str]] = {
    "cut": lambda text: text[: len(text) // 2],
    "no JSON": lambda _: "\x00",
    "a number": lambda _: "7",
    "a list": lambda _: "[]",
    "deep": lambda _: "[" * 100_000,
    "about another": lambda text: _change(text, lambda c: c["about"].update(torch="2.11")),
    "no choices": lambda text: _change(text, lambda c: c.pop("choices")),
    "no candidates": lambda text: _change(text, lambda c: c["choices"][0].update(candidates=[])),
    "a negative time": lambda text: _change(
        text, lambda c: c["choices"][0]["candidates"][0].update(seconds=-1.0)
    ),
    "no time": lambda text: _change(
        text, lambda c: c["choices"][0]["candidates"][0].update(seconds="soon")
    ),
    "another shape": lambda text: _change(text, lambda c: c["choices"][0]["shape"].pop("side")),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_reported_and_replaced(clock, tmp_path: Path, damage, caplog) -> None:
    first = Store(tmp_path, ABOUT)
    measured(clock, first)
    assert first.path is not None
    first.path.write_text(damage(first.path.read_text()))
    assert measured(clock, Store(tmp_path, ABOUT))[1] == 4
    assert "cannot be used and is replaced" in caplog.text
    assert measured(clock, Store(tmp_path, ABOUT))[1] == 0


def test_links_are_not_followed(clock, tmp_path: Path, caplog) -> None:
    """Others may be able to write to the folder of the cache."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    cache = tmp_path / "cache"
    store = Store(cache, ABOUT)
    assert store.path is not None
    store.path.parent.mkdir(parents=True)
    store.path.symlink_to(victim)
    assert measured(clock, Store(cache, ABOUT))[1] == 4
    assert "is a link, which this program does not follow" in caplog.text
    assert victim.read_text() == "precious"
    assert not store.path.is_symlink(), "its own file takes the link's place"
    assert measured(clock, Store(cache, ABOUT))[1] == 0


def test_a_pipe_in_place_of_the_file_does_not_block(clock, tmp_path: Path) -> None:
    store = Store(tmp_path, ABOUT)
    assert store.path is not None
    store.path.parent.mkdir()
    os.mkfifo(store.path)
    assert measured(clock, Store(tmp_path, ABOUT))[1] == 4


@pytest.mark.parametrize("cache", ["file", "none"])
def test_without_a_usable_folder_choosing_still_works(clock, tmp_path: Path, cache) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" if cache == "file" else None
    assert measured(clock, Store(folder, ABOUT))[1] == 4
