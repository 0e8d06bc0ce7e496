"""The C++ kernels, called through TensorFlow operations."""

from fastneg.backends.native.in_batch_softmax import in_batch_softmax
from fastneg.backends.native.library import describe, load
from fastneg.backends.native.pairwise_logistic import pairwise_logistic
from fastneg.backends.native.positive_ranks import positive_ranks
from fastneg.backends.native.rolled_softmax import rolled_softmax
from fastneg.backends.native.sampled_softmax import sampled_softmax
from fastneg.backends.native.shuffled_cosine import random_permutations, shuffled_cosine
from fastneg.backends.native.sv_softmax import sv_softmax
from fastneg.backends.native.xla import calls as runs_in_xla

__all__ = [
    "describe",
    "in_batch_softmax",
    "load",
    "pairwise_logistic",
    "positive_ranks",
    "random_permutations",
    "rolled_softmax",
    "runs_in_xla",
    "sampled_softmax",
    "shuffled_cosine",
    "sv_softmax",
]
