"""Step 1: compares logits and classes with torchvision's network, for every batch size.

It uses the classifier as a worker does: on a GPU with a graph and pinned memory.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch

from benchmarks.gpu_check import network
from benchmarks.gpu_check.report import Report
from benchmarks.gpu_check.step import Given
from benchmarks.model.contenders import MODEL
from resnext import Classifier, load_classifier

FP32_OF_LARGEST: Final = 1e-4
# Relative L2 of the logits; docs/model.md has the same.
L2: Final = {"fp16": 0.01, "bf16": 0.05, "fp32": 1e-4}
COSINE: Final = 0.99
# In 16 bits, scores that are closer than this may swap places.
MARGIN: Final = 0.05
_GPU_BATCH, _CPU_BATCH = 256, 4
_CPU_PICTURES: Final = 2


def check(given: Given, report: Report) -> None:
    on_gpu = torch.cuda.is_available()
    number, batch = (network.DIFFERENT, _GPU_BATCH) if on_gpu else (_CPU_PICTURES, _CPU_BATCH)
    pixels = network.batch_of(number)
    expected = network.reference_logits(given.scratch, number)
    for precision in ("fp32", "amp"):
        classifier = network.load(
            given.scratch, engine="eager", precision=precision, batch_images=batch
        )
        if precision == "fp32":  # planning all sizes a second time takes long
            sizes = classifier._buckets
            classifier._buckets = [sizes[0], sizes[len(sizes) // 2], sizes[-1]]
        compare(classifier, pixels, expected, report)
        is_half = classifier.precision == "fp16"
        del classifier  # frees its memory before the next one is loaded
    if is_half:
        path = network.overflowing_weights_in(given.scratch)
        overflow(load_classifier(MODEL, str(path), engine="eager", batch_images=4), pixels, report)


def compare(
    classifier: Classifier, pixels: np.ndarray, expected: np.ndarray, report: Report
) -> None:
    """`pixels` are (N, crop, crop, 3) uint8; `expected` are their logits, (N, classes) float64."""
    worst = {"largest": 0.0, "l2": 0.0, "cosine": 1.0, "top": 0, "score": 0.0}
    for bucket in classifier._buckets:
        sent, right = network.repeated(pixels, bucket), network.repeated(expected, bucket)
        logits = classifier.logits(sent)
        worst["largest"] = _worse(worst["largest"], of_largest(logits, right))
        worst["l2"] = _worse(worst["l2"], l2(logits, right))
        worst["cosine"] = -_worse(-worst["cosine"], -cosine(logits, right))
        found = classifier.start(sent).result()
        worst["top"] += changed(found.class_ids, right)
        worst["score"] = _worse(worst["score"], float(np.abs(found.scores - _best(right)).max()))
    name = classifier.precision
    report.note(f"{name}, batches of", text=", ".join(map(str, classifier._buckets)))
    if name == "fp32":
        report.at_most("fp32 error of the largest logit", worst["largest"], FP32_OF_LARGEST)
    report.at_most(f"{name} relative L2", worst["l2"], L2[name])
    report.at_least(f"{name} cosine", worst["cosine"], COSINE)
    report.at_most(f"{name} changed classes", worst["top"], 0)
    report.note(f"{name} largest difference of a score", worst["score"])


def _worse(a: float, b: float) -> float:
    """The larger value; NaN counts as the worst."""
    return float(np.fmax(a, b)) if np.isfinite(b) else float("inf")


def of_largest(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest error divided by the largest logit, which counts as at least 1."""
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))


def l2(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def cosine(found: np.ndarray, expected: np.ndarray) -> float:
    """The lowest cosine of all pictures."""
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    return float(((found * expected).sum(axis=1) / lengths).min())


def changed(class_ids: np.ndarray, expected: np.ndarray) -> int:
    """Counts pictures whose first class differs although its lead is clear."""
    scores = _softmax(expected)
    order = np.sort(scores, axis=1)
    clear = order[:, -1] - order[:, -2] > MARGIN
    return int((clear & (class_ids[:, 0] != expected.argmax(axis=1))).sum())


def _best(logits: np.ndarray) -> np.ndarray:
    """(N, classes) → (N, 5): the best scores, highest first."""
    return np.sort(_softmax(logits), axis=1)[:, :-6:-1]


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    made: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return made


def overflow(classifier: Classifier, pixels: np.ndarray, report: Report) -> None:
    """Checks that only the pictures that overflow fail. The stem's weights are so large that only a
    picture without contrast, in the mean colour, stays within fp16.
    """
    mean = np.array(classifier.spec.preprocessing.mean) * 255
    plain = np.broadcast_to(mean.round().astype(np.uint8), pixels[0].shape)
    sent = np.stack([plain, pixels[0], plain, pixels[3]])
    finite = classifier.classify(sent).finite.tolist()
    report.must("only pictures that overflow fail", finite == [True, False] * 2, str(finite))
