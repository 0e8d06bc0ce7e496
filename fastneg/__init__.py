"""Fused in-batch negative sampling losses for TensorFlow.

Importing the package registers its TensorFlow operations, so that a SavedModel which contains them
loads. Without TensorFlow the import still succeeds, for the sake of ``fastneg._core``, which needs
NumPy only; the losses then raise an ``ImportError`` that says what is missing.
"""

import importlib
import importlib.util
import sys
from typing import Any

from fastneg.version import __version__

__all__ = [
    "BackendUnavailableError",
    "__version__",
    "build_info",
    "distribute",
    "in_batch_softmax_loss",
    "layers",
    "losses",
    "metrics",
    "negative_cosine_loss",
    "pairwise_loss",
    "positive_ranks",
    "reference",
    "sampled_softmax_loss",
    "show_config",
    "softmax_loss_with_negative_mining",
    "support_vector_guided_softmax_loss",
    "use_backend",
]

if importlib.util.find_spec("tensorflow") is None:

    def __getattr__(name: str) -> Any:
        if name in __all__:
            raise ImportError(
                f"`fastneg.{name}` needs TensorFlow 2.16 or newer, which is not installed. "
                "Install it with: pip install 'fastneg[tensorflow]'"
            )
        raise AttributeError(f"module 'fastneg' has no attribute {name!r}")

else:
    from fastneg import distribute, losses, reference
    from fastneg.backends import BackendUnavailableError, register_operations
    from fastneg.config import build_info, show_config, use_backend
    from fastneg.losses.in_batch_softmax import in_batch_softmax_loss
    from fastneg.losses.pairwise_logistic import pairwise_loss
    from fastneg.losses.positive_ranks import positive_ranks
    from fastneg.losses.rolled_softmax import softmax_loss_with_negative_mining
    from fastneg.losses.sampled_softmax import sampled_softmax_loss
    from fastneg.losses.shuffled_cosine import negative_cosine_loss
    from fastneg.losses.sv_softmax import support_vector_guided_softmax_loss

    register_operations()

    # Keras loads a saved model only if the classes of its layers are registered. TensorFlow has
    # imported Keras by now, unless TF_USE_LEGACY_KERAS says not to: then this waits for the first
    # use, because Keras takes its time to import.
    _keras = sys.modules.get("keras")
    if _keras is not None and _keras.backend.backend() == "tensorflow":
        from fastneg import layers, metrics
    else:

        def __getattr__(name: str) -> Any:
            if name in ("layers", "metrics"):
                return importlib.import_module(f"fastneg.{name}")
            raise AttributeError(f"module 'fastneg' has no attribute {name!r}")
