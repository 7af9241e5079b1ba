"""The model: uint8 pictures in, top-5 classes out. It knows neither the queue nor SQL.

    picture ← spec ← network ← weights ← load ← classifier, export
    picture, network ← run ← classifier, export; classifier ← batch

`picture` and `spec` load no torch, except for `picture.decode_fast`, because loader processes
import them. For the same reason `load_classifier` is imported only when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnext.classifier import Answer, Classifier, load_classifier
    from resnext.predictions import Predictions

__all__ = ["Answer", "Classifier", "Predictions", "load_classifier"]


def __getattr__(name: str) -> Any:  # noqa: ANN401  (any of the names below)
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from resnext import classifier  # noqa: PLC0415  (loads torch, only when needed)

    return getattr(classifier, name)
