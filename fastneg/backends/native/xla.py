"""The operations inside XLA: an optional library.

Where it is loaded, a function compiled by XLA calls the same kernels as any other. Where it is not,
such functions use the reference composition.
"""

import tensorflow as tf

from fastneg.backends.native import cuda
from fastneg.backends.native.optional import OptionalLibrary

library = OptionalLibrary(
    "_xla.so",
    problem="XLA_PROBLEM",
    without="Where XLA compiles a loss, the plain TensorFlow composition runs.",
    plain=("_cuda.so",),
)

# The losses, and what belongs to them, that XLA can call on processors.
_LOSSES = frozenset({*cuda.LOSSES, "pairwise_logistic", "random_permutations"})


def calls(loss: str) -> bool:
    """Whether XLA can call `loss` from a function that it compiles for any device there is."""
    if loss not in _LOSSES or library.why_not_loaded() is not None:
        return False
    kinds = {device.device_type for device in tf.config.list_logical_devices()}
    if loss in cuda.LOSSES and cuda.library.why_not_loaded() is None:
        kinds.discard("GPU")
    return kinds <= {"CPU"}
