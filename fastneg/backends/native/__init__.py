"""The C++ kernels, called through TensorFlow operations."""

from fastneg.backends.native.library import describe, load
from fastneg.backends.native.rolled_softmax import rolled_softmax

__all__ = ["describe", "load", "rolled_softmax"]
