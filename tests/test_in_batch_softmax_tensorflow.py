"""The in-batch softmax loss saved, differentiated twice, and of unknown sizes inside XLA."""

from pathlib import Path
from typing import Any

import in_batch_problems
import numpy as np
import pytest
import tensorflow as tf
from in_batch_problems import LOSS

MADE = in_batch_problems.make(12, 20, 6)
IDS = np.arange(20) % 7


def _loss_and_gradients(query: Any, candidate: Any, reduction: str) -> Any:
    with tf.GradientTape() as tape:
        tape.watch([query, candidate])
        loss = LOSS(query, candidate, candidate_ids=IDS, reduction=reduction)
    return loss, *tape.gradient(loss, [query, candidate])


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_saved_model(native: str, tmp_path: Path, reduction: str) -> None:
    module = tf.Module()
    module.step = tf.function(
        lambda query, candidate: _loss_and_gradients(query, candidate, reduction),
        input_signature=[tf.TensorSpec([None, 6])] * 2,
        autograph=False,
    )
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    arguments = tf.constant(MADE.query), tf.constant(MADE.candidate)
    expected = _loss_and_gradients(*arguments, reduction)
    for actual, exact in zip(loaded.step(*arguments), expected, strict=True):
        np.testing.assert_array_equal(actual, exact)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_second_derivatives_are_refused(native: str, mode: str, reduction: str) -> None:
    def second(query: tf.Tensor) -> Any:
        with tf.GradientTape() as outer:
            outer.watch(query)
            grad = _loss_and_gradients(query, tf.constant(MADE.candidate), reduction)[1]
        return outer.gradient(grad, query)

    call = tf.function(second, autograph=False) if mode == "graph" else second
    with pytest.raises(LookupError, match="reference"):
        call(tf.constant(MADE.query))


def test_unknown_sizes_inside_xla(native_in_xla: str) -> None:
    step = tf.function(
        lambda query, candidate: _loss_and_gradients(query, candidate, "none"),
        input_signature=[tf.TensorSpec([None, None])] * 2,
        jit_compile=True,
        autograph=False,
    )
    arguments = tf.constant(MADE.query), tf.constant(MADE.candidate)
    expected = _loss_and_gradients(*arguments, "none")
    for actual, exact in zip(step(*arguments), expected, strict=True):
        np.testing.assert_array_equal(actual, exact)
