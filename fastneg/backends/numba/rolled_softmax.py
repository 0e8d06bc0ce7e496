"""`softmax_loss_with_negative_mining` as TensorFlow sees the numba kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from fastneg.arguments.rolled_softmax import RolledSoftmaxArguments
from fastneg.backends.numba import bridge, call, inputs

_SCALARS = ("gamma", "margin", "t")


def rolled_softmax(arguments: RolledSoftmaxArguments) -> tf.Tensor:
    """Calls the kernels."""
    user_emb, item_emb = arguments.user_emb, arguments.item_emb
    if user_emb.dtype in (tf.float16, tf.bfloat16):
        user_emb, item_emb = tf.cast(user_emb, tf.float32), tf.cast(item_emb, tf.float32)
    differentiable = {"user_emb": user_emb, "item_emb": item_emb}
    if arguments.weights is not None:
        differentiable["weights"] = arguments.weights
    numbers: dict[str, Any] = {
        name: getattr(arguments, name) for name in ("embed_normed", *inputs.ROW_OPTIONS)
    }
    for name in _SCALARS:
        value = getattr(arguments, name)
        if isinstance(value, tf.Tensor):
            differentiable[name] = value
        else:
            numbers[name] = value

    def compute(arrays: Mapping[str, Any], with_grad: bool) -> call.Result:
        return call.rolled_softmax(
            **inputs.prepare({**arrays, **numbers}),
            with_grad=with_grad,
            with_scalar_grad=with_grad and any(name in arrays for name in _SCALARS),
            num_threads=bridge.num_threads(),
        )

    constants = {
        "labels": arguments.labels,
        "shifts": arguments.shifts,
        "candidate_sampling_probability": arguments.candidate_sampling_probability,
        "candidate_ids": arguments.candidate_ids,
    }
    return bridge.fused_loss(
        differentiable, constants, compute, _unit_grads, num_outputs=len(call.Result._fields)
    )


def _unit_grads(names: Sequence[str], results: Sequence[Any]) -> list[Any]:
    _, grad_user, grad_item, grad_weights, grad_scalars = results
    found = {"user_emb": grad_user, "item_emb": grad_item, "weights": grad_weights}
    found |= {name: grad_scalars[i] for i, name in enumerate(_SCALARS) if name in names}
    return [found[name] for name in names]
