"""The public losses, one module each, and those that are classes of Keras.

Attributes:
    OutputLoss: Takes the output of a model as its loss.
    PairwiseLoss: `fastneg.pairwise_loss` for `model.compile(loss=...)`.
"""

import importlib
from typing import Any

__all__ = ["OutputLoss", "PairwiseLoss"]


def __getattr__(name: str) -> Any:
    # Keras need not be there for the functions.
    if name in __all__:
        return getattr(importlib.import_module("fastneg.layers.compiled_losses"), name)
    raise AttributeError(f"module 'fastneg.losses' has no attribute {name!r}")
