"""The losses as Keras layers, for Keras 3 on TensorFlow.

Importing fastneg imports this package too where TensorFlow has imported Keras, as it does unless
TF_USE_LEGACY_KERAS is set: `keras.models.load_model` finds only classes that are registered.

Every layer computes in the dtype of what it is given, whatever the dtype policy: labels, ids and
probabilities must not be rounded to a half type.
"""

import keras

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "fastneg.layers must run on Keras's TensorFlow backend (KERAS_BACKEND=tensorflow). "
        f"Received: {keras.backend.backend()}."
    )

from fastneg.layers import compiled_losses  # noqa: F401 - registers its classes.
from fastneg.layers.candidate_queue import CandidateQueue
from fastneg.layers.negative_cosine import NegativeCosineLayer
from fastneg.layers.negative_mining_softmax import NegativeMiningSoftmaxLoss
from fastneg.layers.retrieval import Retrieval
from fastneg.layers.sampled_softmax import SampledSoftmaxLayer
from fastneg.layers.sampled_softmax_embedding import SampledSoftmaxEmbedding

__all__ = [
    "CandidateQueue",
    "NegativeCosineLayer",
    "NegativeMiningSoftmaxLoss",
    "Retrieval",
    "SampledSoftmaxEmbedding",
    "SampledSoftmaxLayer",
]
