"""The model alone: uint8 pictures in, top-5 classes out; knows no queue and no SQL.

    picture ← spec ← network ← weights ← load ← classifier, export
    picture, network ← run ← classifier, export

`picture` and `spec` load no torch, except for `picture.decode_fast`, since loader processes import
them. `load_classifier` is looked up here when it is first asked for, for the same reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnext.classifier import Answer, Classifier, load_classifier
    from resnext.predictions import Predictions

__all__ = ["Answer", "Classifier", "Predictions", "load_classifier"]


def __getattr__(name: str) -> Any:  # noqa: ANN401  (whichever of the names below)
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from resnext import classifier  # noqa: PLC0415  (torch, only once it is needed)

    return getattr(classifier, name)
