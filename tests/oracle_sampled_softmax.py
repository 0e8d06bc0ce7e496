"""The sampled softmax loss and its gradients in float64 NumPy, written from the formulas.

Independent of the package: nothing here is imported from it, and nothing in it from here.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


class Truth(NamedTuple):
    """The losses, and the derivatives of their sum weighted with the upstream gradient."""

    loss: Array
    grad_weights: Array
    grad_biases: Array
    grad_inputs: Array


def sampled_softmax(
    weights: Any,
    biases: Any,
    labels: ArrayLike,
    inputs: Any,
    sampled: ArrayLike,
    true_expected_count: Any,
    sampled_expected_count: Any,
    *,
    remove_accidental_hits: bool = True,
    upstream: ArrayLike = 1.0,
) -> Truth:
    """Row by row: logits of labels and samples, softmax, and back."""
    weights, inputs = _float64(weights), _float64(inputs)
    batch_size, labels = len(inputs), np.asarray(labels)
    labels = labels.reshape(batch_size, -1)
    num_true = labels.shape[1]
    sampled = np.asarray(sampled)
    biases = np.zeros(len(weights)) if biases is None else _float64(biases)
    log_true = np.log(np.broadcast_to(_float64(true_expected_count), labels.shape))
    log_sampled = np.log(np.broadcast_to(_float64(sampled_expected_count), sampled.shape))
    upstream = np.broadcast_to(_float64(upstream), batch_size)
    # Where an id was sampled more than once, TensorFlow removes its last occurrence alone.
    last = {int(candidate): position for position, candidate in enumerate(sampled)}

    loss = np.zeros(batch_size)
    grad_weights, grad_biases = np.zeros_like(weights), np.zeros_like(biases)
    grad_inputs = np.zeros_like(inputs)
    for i in range(batch_size):
        kept = np.ones(len(sampled), bool)
        if remove_accidental_hits:
            kept[[last[int(label)] for label in labels[i] if int(label) in last]] = False
        ids = np.concatenate([labels[i], sampled[kept]])
        log_counts = np.concatenate([log_true[i], log_sampled[kept]])
        logits = weights[ids] @ inputs[i] + biases[ids] - log_counts
        exponentials = np.exp(logits - logits.max())
        total, others = exponentials.sum(), exponentials[num_true:].sum()
        loss[i] = np.log(total) - (logits[:num_true] - logits.max()).mean()
        if num_true == 1 and exponentials[0] > 1e-300:
            # A loss close to 0 may not come from a difference of numbers close to 1.
            loss[i] = np.log1p(others / exponentials[0])
        grad_logits = exponentials / total
        grad_logits[:num_true] -= 1 / num_true
        if num_true == 1:
            grad_logits[0] = -others / total
        grad_logits *= upstream[i]
        grad_inputs[i] = grad_logits @ weights[ids]
        np.add.at(grad_weights, ids, grad_logits[:, None] * inputs[i])
        np.add.at(grad_biases, ids, grad_logits)
    return Truth(loss, grad_weights, grad_biases, grad_inputs)


def _float64(values: Any) -> Array:
    return np.asarray(values).astype(np.float64)
