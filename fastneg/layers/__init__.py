"""The losses as Keras layers, for Keras 3 on TensorFlow.

Every layer computes in the dtype of what it is given, whatever the dtype policy: labels, ids and
probabilities must not be rounded to a half type.
"""

import keras

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "fastneg.layers must run on Keras's TensorFlow backend (KERAS_BACKEND=tensorflow). "
        f"Received: {keras.backend.backend()}."
    )

from fastneg.layers.negative_cosine import NegativeCosineLayer
from fastneg.layers.negative_mining_softmax import NegativeMiningSoftmaxLoss
from fastneg.layers.sampled_softmax import SampledSoftmaxLayer

__all__ = ["NegativeCosineLayer", "NegativeMiningSoftmaxLoss", "SampledSoftmaxLayer"]
