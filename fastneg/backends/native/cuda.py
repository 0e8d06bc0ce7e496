"""The operations on GPUs: an optional library with CUDA kernels for TensorFlow's GPU device."""

from fastneg.backends.native.optional import OptionalLibrary

library = OptionalLibrary(
    "_ops_cuda.so",
    problem="OPS_CUDA_PROBLEM",
    without="Losses of tensors on a GPU are computed on the CPU.",
    plain=("_cuda.so",),
)

# The losses that have CUDA kernels.
LOSSES = frozenset({"rolled_softmax", "shuffled_cosine", "sv_softmax"})
