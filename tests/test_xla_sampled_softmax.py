"""The sampled softmax inside XLA: its table, its rows and their gradients."""

import re
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from case_gradients import TOLERANCES, arguments_of
from small_cases import B

import fastneg
from fastneg.backends.native.gather_rows import gather_rows
from fastneg.backends.native.library import operations


def test_same_bits_of_a_table(native_in_xla: str) -> None:
    """Although as many rows as there could be are gathered, and not those that there are."""
    labels, inputs, expected_count = map(tf.constant, arguments_of("sampled_softmax", np.float32))
    sampled = (tf.constant([3, 7, 8]), expected_count, tf.fill([3], 0.1))

    def compute(table: tf.Tensor, biases: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch([table, biases])
            loss = fastneg.sampled_softmax_loss(
                table, biases, labels, inputs, 3, len(table), sampled_values=sampled
            )
        grads = tape.gradient(loss, [table, biases], output_gradients=tf.range(1.0, B + 1))
        return [loss, *map(tf.convert_to_tensor, grads)]

    table = tf.random.normal([20, 4], seed=1)
    expected = compute(table, table[:, 0])
    actual = tf.function(compute, jit_compile=True)(table, table[:, 0])
    for result, wanted in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(result, wanted)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("kind", ["argument", "sizes come later", "variable"])
def test_rows_of_a_table_that_is_stored(native_in_xla: str, kind: str, dtype: Any) -> None:
    """They are gathered by an operation, not by XLA; `tf.gather` says what they are."""
    rng = np.random.default_rng(5)
    table = tf.constant(rng.standard_normal((3000, 7)), dtype)
    variable = tf.Variable(table)
    labels = tf.constant(rng.integers(0, 3000, (1200, 2)))
    inputs = tf.constant(rng.standard_normal((1200, 7)), dtype)
    sampled = tf.constant(rng.integers(0, 3000, 40))

    def compute(table: tf.Tensor, labels: tf.Tensor, inputs: tf.Tensor) -> list[tf.Tensor]:
        source = variable if kind == "variable" else table
        with tf.GradientTape() as tape:
            tape.watch([table, inputs])
            loss = fastneg.sampled_softmax_loss(
                source, None, labels, inputs, 40, 3000, 2, sampled_values=(sampled, 0.5, 0.25)
            )
        grad_table, grad_inputs = tape.gradient(loss, [source, inputs])
        assert isinstance(grad_table, tf.IndexedSlices)
        return [loss, grad_inputs, tf.convert_to_tensor(grad_table)]

    values = table, labels, inputs
    signature = [tf.TensorSpec([None] * value.shape.rank, value.dtype) for value in values]
    compiled = tf.function(
        compute,
        jit_compile=True,
        input_signature=signature if kind == "sizes come later" else None,
    )
    for result, wanted in zip(compiled(*values), compute(*values), strict=True):
        np.testing.assert_array_equal(result, wanted)
    program = compiled.experimental_get_compiler_ir(*values)(stage="optimized_hlo")
    assert 'op = "Fastneg>GatherRows"' in program
    assert " gather(" not in program


@pytest.mark.parametrize("jit_compile", [True, False], ids=["custom call", "operation"])
def test_gradient_of_gathered_rows(native_in_xla: str, jit_compile: bool) -> None:
    """That of `tf.gather`, ids that come twice included."""
    table, ids = tf.random.normal([5, 3], seed=2), tf.constant([4, 1, 4], tf.int64)
    upstream = tf.random.normal([3, 3], seed=3)

    def gradient(gather: Any) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(table)
            rows = gather(table, ids)
        return tf.convert_to_tensor(tape.gradient(rows, table, upstream))

    ours = gather_rows if jit_compile else operations().fastneg_gather_rows
    result = tf.function(lambda: gradient(ours), jit_compile=jit_compile)()
    np.testing.assert_array_equal(result, gradient(tf.gather))


def test_rows_outside_a_table(native_in_xla: str) -> None:
    table, ids = tf.ones([4, 3]), tf.constant([3, -1, 4, 0], tf.int64)
    for function in (gather_rows, operations().fastneg_gather_rows):
        run = tf.function(function, jit_compile=True) if function is gather_rows else function
        np.testing.assert_array_equal(run(table, ids[:1]), tf.ones([1, 3]))
        for wrong in (ids, ids[2:]):
            with pytest.raises(tf.errors.InvalidArgumentError, match="`ids` must be at least 0"):
                run(table, wrong)
    with pytest.raises(tf.errors.InvalidArgumentError, match="`table` must have rank 2"):
        operations().fastneg_gather_rows(table[0], ids)
    with pytest.raises(tf.errors.InvalidArgumentError, match="`ids` must have rank 1"):
        operations().fastneg_gather_rows(table, ids[None])


def test_sampled_gradients_in_place(native_in_xla: str) -> None:
    """In the buffers of those for an upstream gradient of 1, unless they are needed again."""
    rng = np.random.default_rng(8)
    table, inputs = rng.standard_normal((50, 8)), rng.standard_normal((6, 8))
    labels, upstream = rng.integers(0, 50, (6, 1)), rng.random(6)
    sampled = tf.range(10, 20, dtype=tf.int64)

    def gradients(table: tf.Tensor, inputs: tf.Tensor, upstreams: list[tf.Tensor]) -> list[Any]:
        counts = tf.ones([6, 1], table.dtype), tf.ones([10], table.dtype)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([table, inputs])
            loss = fastneg.sampled_softmax_loss(
                table, None, labels, inputs, 10, 50, sampled_values=(sampled, *counts)
            )
        return [
            tf.convert_to_tensor(grad)
            for upstream in upstreams
            for grad in tape.gradient(loss, [table, inputs], upstream)
        ]

    with fastneg.use_backend("reference"):
        weights = [upstream, np.full(6, 2.0), np.full(6, 3.0)]
        exact = gradients(tf.constant(table), tf.constant(inputs), list(map(tf.constant, weights)))
    floats = [tf.constant(value, tf.float32) for value in (table, inputs, *weights)]
    compiled = tf.function(lambda t, x, *w: gradients(t, x, list(w)), jit_compile=True)
    for result, expected in zip(compiled(*floats), exact, strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
    once = floats[:3]
    program = compiled.experimental_get_compiler_ir(*once)(stage="optimized_hlo")
    (call,) = (line for line in program.splitlines() if 'op = "Fastneg>SampledSoftmaxGrad"' in line)
    assert "output_to_operand_aliasing" in call
    assert not re.search(r"= f32\[\d+,8\]\S* copy\(", program)
