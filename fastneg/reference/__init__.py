"""The losses in plain TensorFlow, with the signatures of the fused ones.

They document the mathematics, serve where nothing faster can run (XLA, second derivatives), and are
what the fused forms are tested and measured against.
"""

from fastneg.reference.in_batch_softmax import in_batch_softmax_loss
from fastneg.reference.pairwise_logistic import pairwise_loss
from fastneg.reference.positive_ranks import positive_ranks
from fastneg.reference.rolled_softmax import softmax_loss_with_negative_mining
from fastneg.reference.sampled_softmax import sampled_softmax_loss
from fastneg.reference.shuffled_cosine import negative_cosine_loss
from fastneg.reference.sv_softmax import support_vector_guided_softmax_loss

__all__ = [
    "in_batch_softmax_loss",
    "negative_cosine_loss",
    "pairwise_loss",
    "positive_ranks",
    "sampled_softmax_loss",
    "softmax_loss_with_negative_mining",
    "support_vector_guided_softmax_loss",
]
