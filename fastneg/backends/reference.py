"""The backend that always works: plain TensorFlow operations."""

from typing import Any

from fastneg.reference.in_batch_softmax import in_batch_softmax
from fastneg.reference.pairwise_logistic import pairwise_logistic
from fastneg.reference.positive_ranks import ranks as positive_ranks
from fastneg.reference.rolled_softmax import rolled_softmax
from fastneg.reference.sampled_softmax import sampled_softmax
from fastneg.reference.shuffled_cosine import random_permutations, shuffled_cosine
from fastneg.reference.sv_softmax import sv_softmax

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


def load() -> None:
    """Does nothing: there is nothing to load."""


def runs_in_xla(loss: str) -> bool:
    """XLA compiles whatever this backend does."""
    return True


def describe() -> dict[str, Any]:
    """Has nothing to add to what is known of TensorFlow."""
    return {}
