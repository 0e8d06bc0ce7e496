"""Values and gradients of cases, by any backend, and the truth of plain TensorFlow."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import tensorflow as tf
from small_cases import CASES, Case

import fastneg

# What each loss is differentiated by. Ranks have no gradient.
DIFFERENTIABLE = {
    "rolled_softmax": ("user_emb", "item_emb", "weights"),
    "shuffled_cosine": ("query", "doc"),
    "sv_softmax": ("pos_score", "neg_scores", "weights"),
    "pairwise_logistic": ("logits", "weights"),
    "sampled_softmax": ("inputs",),
    "in_batch_softmax": ("query_embeddings", "candidate_embeddings", "sample_weight"),
    "positive_ranks": (),
}
TOLERANCES = {
    np.dtype(ml_dtypes.bfloat16): 1e-2,
    np.dtype(np.float16): 2e-3,
    np.dtype(np.float32): 2e-6,
    np.dtype(np.float64): 1e-13,
}
UPSTREAM = 3.0  # Gradient of the loss.

Results = tuple[Any, list[Any]]  # A loss and its gradients.


def arguments_of(
    name: str, dtype: Any = np.float32, cases: Mapping[str, Case] = CASES
) -> list[np.ndarray]:
    """The arguments of a case with embeddings or scores of a dtype."""
    compute_dtype = np.float64 if dtype == np.float64 else np.float32
    wide = ("weights", "sample_weight", "candidate_sampling_probability", "true_expected_count")
    return [
        value.astype(compute_dtype if key in wide else dtype)
        if value.dtype == np.float32 and key != "labels"
        else value
        for key, value in cases[name].arguments.items()
    ]


def with_gradients(name: str, cases: Mapping[str, Case] = CASES) -> Callable[..., Results]:
    """A function of a case's arguments: its loss, `UPSTREAM` times, and the gradients of that."""
    case = cases[name]

    def compute(*arguments: tf.Tensor) -> Results:
        followed = [
            argument
            for key, argument in zip(case.arguments, arguments, strict=True)
            if key in DIFFERENTIABLE[name]
        ]
        with tf.GradientTape() as tape:
            tape.watch(followed)
            loss = UPSTREAM * case.loss(*arguments)
        return loss, tape.gradient(loss, followed)

    return compute


def value_and_gradients(loss: Callable[..., tf.Tensor], tensors: list[tf.Tensor]) -> list[Any]:
    """A loss of tensors, and the gradients of all of them that have one."""
    followed = [tensor for tensor in tensors if tensor.dtype.is_floating]
    with tf.GradientTape() as tape:
        tape.watch(followed)
        value = loss(*tensors)
    return [value, *(grad for grad in tape.gradient(value, followed) if grad is not None)]


def truth_of(name: str, arguments: Sequence[np.ndarray]) -> Results:
    """What plain TensorFlow computes of these arguments in float64."""
    wide = [
        value.astype(np.float64) if value.dtype.kind not in "biu" else value for value in arguments
    ]
    return in_plain_tensorflow(lambda: with_gradients(name)(*map(tf.constant, wide)))


def in_plain_tensorflow(compute: Callable[[], Any]) -> Any:
    """The value of a graph of its own, whatever graph is built around, on the CPU."""
    with (
        tf.Graph().as_default(),
        fastneg.use_backend("reference"),
        tf.device("CPU:0"),
        tf.compat.v1.Session() as session,
    ):
        return session.run(compute())


def assert_near_truth(results: Results, truth: Results, dtype: Any) -> None:
    """Losses to the rounding of the compute type, gradients to that of their own type."""
    (loss, grads), (true_loss, true_grads) = results, truth
    wide = TOLERANCES[np.dtype(np.float64 if dtype == np.float64 else np.float32)]
    np.testing.assert_allclose(loss, true_loss, rtol=wide)
    for grad, exact in zip(map(np.asarray, grads), true_grads, strict=True):
        tolerance = max(wide, TOLERANCES[grad.dtype])
        np.testing.assert_allclose(
            grad.astype(np.float64), exact, rtol=tolerance, atol=tolerance * np.max(np.abs(exact))
        )
