"""Inside XLA: shapes that were unknown to Python.

Whatever does not fit has to be refused when XLA compiles. Some of its own operations would take it,
and its einsum ends the process.
"""

import functools
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from small_cases import CASES, B

import fastneg


@functools.cache
def _compiled(name: str, backend: str) -> Callable[..., tf.Tensor]:
    """The loss in XLA; Python knows the ranks of its arguments, and dimensions of 1.

    Traced once: what one size is refused for must not spoil it for others.
    """
    case = CASES[name]
    specs = [
        tf.TensorSpec([size if size == 1 else None for size in value.shape], value.dtype)
        for value in case.arguments.values()
    ]
    function = tf.function(case.loss, input_signature=specs, jit_compile=True)
    with fastneg.use_backend(backend):
        function.get_concrete_function()
    return function


@pytest.mark.parametrize("name", CASES)
def test_what_fits(xla_backend: str, name: str) -> None:
    case = CASES[name]
    with fastneg.use_backend("reference"):
        expected = case.loss(*map(tf.constant, case.arguments.values()))
    actual = _compiled(name, xla_backend)(*map(tf.constant, case.arguments.values()))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("rows", [0, 1, B - 1, 2 * B])
@pytest.mark.parametrize(
    ("name", "argument"), [(name, argument) for name in CASES for argument in CASES[name].arguments]
)
def test_another_number_of_rows(xla_backend: str, name: str, argument: str, rows: int) -> None:
    case = CASES[name]
    value = case.arguments[argument]
    values = {**case.arguments, argument: np.concatenate([value, value])[:rows]}
    with pytest.raises(tf.errors.InvalidArgumentError):
        _compiled(name, xla_backend)(*map(tf.constant, values.values()))


@pytest.mark.parametrize("argument", ["positives", "sample_weight", "score_mask"])
def test_a_loss_for_each_of_no_rows(xla_backend: str, argument: str) -> None:
    """XLA leaves out a call that returns nothing; what the call checks has to be checked still."""
    value = {
        "positives": np.zeros(B, np.int64),
        "sample_weight": np.ones(B, np.float32),
        "score_mask": np.ones([B, B], bool),
    }[argument]

    @tf.function(
        jit_compile=True,
        input_signature=[
            tf.TensorSpec([None, 4]),
            tf.TensorSpec([None, *value.shape[1:]], value.dtype),
        ],
    )
    def loss(query: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
        return fastneg.in_batch_softmax_loss(
            query, tf.ones([B, 4]), reduction="none", **{argument: value}
        )

    assert loss(tf.ones([0, 4]), tf.constant(value[:0])).shape == (0,)
    with pytest.raises(tf.errors.InvalidArgumentError):
        loss(tf.ones([0, 4]), tf.constant(value))


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("rolled_softmax", "item_emb"),
        ("shuffled_cosine", "doc"),
        ("batch-normalized cosine", "doc"),
        ("sampled_softmax", "inputs"),
        ("in_batch_softmax", "candidate_embeddings"),
        ("positive_ranks", "candidate_embeddings"),
    ],
)
def test_another_width(xla_backend: str, name: str, argument: str) -> None:
    case = CASES[name]
    values = {**case.arguments, argument: case.arguments[argument][:, :3]}
    with pytest.raises(tf.errors.InvalidArgumentError):
        _compiled(name, xla_backend)(*map(tf.constant, values.values()))
