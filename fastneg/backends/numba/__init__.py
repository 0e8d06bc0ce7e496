"""The losses in numba: machine code without a C++ compiler, for processors.

TensorFlow calls back into Python for these kernels. Eager execution, `tf.function` and Keras work.
A SavedModel that holds such a call works in no other process, because TensorFlow does not save
Python functions. The first call for a dtype compiles for some seconds; the machine code is cached
on disk, next to this file or, where that cannot be written, in the user's cache directory.
"""

from fastneg.backends.numba.backend import describe, load, runs_in_xla
from fastneg.backends.numba.pairwise_logistic import pairwise_logistic
from fastneg.backends.numba.rolled_softmax import rolled_softmax
from fastneg.backends.numba.sampled_softmax import sampled_softmax
from fastneg.backends.numba.shuffled_cosine import shuffled_cosine
from fastneg.backends.numba.sv_softmax import sv_softmax
from fastneg.reference.shuffled_cosine import random_permutations

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
