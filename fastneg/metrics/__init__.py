"""Metrics for Keras 3 on TensorFlow."""

import keras

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "fastneg.metrics must run on Keras's TensorFlow backend (KERAS_BACKEND=tensorflow). "
        f"Received: {keras.backend.backend()}."
    )

from fastneg.metrics.factorized_top_k import FactorizedTopK

__all__ = ["FactorizedTopK"]
