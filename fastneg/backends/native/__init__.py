"""The C++ kernels, called through TensorFlow operations."""

from fastneg.backends.native.library import describe, load
from fastneg.backends.native.pairwise_logistic import pairwise_logistic
from fastneg.backends.native.rolled_softmax import rolled_softmax
from fastneg.backends.native.sampled_softmax import sampled_softmax
from fastneg.backends.native.shuffled_cosine import random_permutations, shuffled_cosine
from fastneg.backends.native.sv_softmax import sv_softmax
from fastneg.backends.native.xla import calls as runs_in_xla

__all__ = [
    "describe",
    "load",
    "pairwise_logistic",
    "random_permutations",
    "rolled_softmax",
    "runs_in_xla",
    "sampled_softmax",
    "shuffled_cosine",
    "sv_softmax",
]
