"""Inside TensorFlow: functions, control flow, XLA, distribution, threads."""

import threading
from typing import Any

import evaluation
import numpy as np
import problems
import pytest
import tensorflow as tf

import fastneg

LOSS = fastneg.softmax_loss_with_negative_mining
PROBLEM = problems.make(24, 5, 10)


def _loss(user_emb: tf.Tensor, **options: Any) -> tf.Tensor:
    return LOSS(
        user_emb,
        PROBLEM.item_emb,
        PROBLEM.labels,
        shifts=PROBLEM.shifts,
        **{**PROBLEM.options, **options},
    )


@pytest.fixture
def expected(backend: str) -> evaluation.Result:
    return evaluation.run(LOSS, PROBLEM)


def _assert_gradient(actual: Any, expected: evaluation.Result, factor: float = 1.0) -> None:
    desired = factor * expected.grad_user
    np.testing.assert_allclose(actual, desired, rtol=1e-4, atol=1e-5 * np.max(np.abs(desired)))


def test_result_dtype_and_static_shape(backend: str) -> None:
    for dtype, name in ((np.float16, "float32"), (np.float32, "float32"), (np.float64, "float64")):
        user_emb = PROBLEM.user_emb.astype(dtype)
        loss = LOSS(user_emb, user_emb, PROBLEM.labels)
        assert loss.dtype.name == name
        traced = tf.function(LOSS, autograph=False).get_concrete_function(
            tf.TensorSpec([None, None], dtype),
            tf.TensorSpec([None, None], dtype),
            tf.TensorSpec([None], tf.int32),
        )
        assert traced.outputs[0].dtype.name == name
        assert traced.outputs[0].shape == []


def test_tape_outside_of_a_function(expected: evaluation.Result) -> None:
    user_emb = tf.Variable(PROBLEM.user_emb)
    function = tf.function(lambda: _loss(user_emb), autograph=False)
    for _ in range(2):
        with tf.GradientTape() as tape:
            loss = function()
        _assert_gradient(tape.gradient(loss, user_emb), expected)
        np.testing.assert_allclose(function(), expected.loss, rtol=1e-6)


def test_nested_functions(expected: evaluation.Result) -> None:
    inner = tf.function(_loss, autograph=False)

    @tf.function(autograph=False)
    def outer(user_emb: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(user_emb)
            loss = tf.function(lambda: inner(user_emb) * 2.0, autograph=False)()
        return tape.gradient(loss, user_emb)

    _assert_gradient(outer(tf.constant(PROBLEM.user_emb)), expected, 2.0)


def test_tf_gradients(expected: evaluation.Result) -> None:
    @tf.function(autograph=False)
    def gradient(user_emb: tf.Tensor) -> tf.Tensor:
        return tf.gradients(_loss(user_emb), user_emb)[0]

    _assert_gradient(gradient(tf.constant(PROBLEM.user_emb)), expected)


@pytest.mark.parametrize("outside", [False, True], ids=["tape inside", "tape outside"])
def test_while_loop(expected: evaluation.Result, outside: bool) -> None:
    def total(user_emb: tf.Tensor) -> tf.Tensor:
        return tf.while_loop(
            lambda step, _: step < 3,
            lambda step, total: (step + 1, total + _loss(user_emb)),
            (0, tf.constant(0.0)),
        )[1]

    def gradient(user_emb: tf.Tensor) -> tf.Tensor:
        function = tf.function(total, autograph=False) if outside else total
        with tf.GradientTape() as tape:
            tape.watch(user_emb)
            value = function(user_emb)
        return tape.gradient(value, user_emb)

    function = gradient if outside else tf.function(gradient, autograph=False)
    _assert_gradient(function(tf.constant(PROBLEM.user_emb)), expected, 3.0)


def test_training_loop_inside_a_while_loop(expected: evaluation.Result) -> None:
    user_emb = tf.Variable(PROBLEM.user_emb)

    @tf.function(autograph=False)
    def train() -> None:
        def step(index: tf.Tensor) -> tuple[tf.Tensor]:
            with tf.GradientTape() as tape:
                loss = _loss(user_emb)
            user_emb.assign_sub(tape.gradient(loss, user_emb))
            return (index + 1,)

        tf.while_loop(lambda index: index < 1, step, (0,))

    train()
    _assert_gradient(PROBLEM.user_emb - user_emb, expected)


@pytest.mark.parametrize("branch", [False, True])
@pytest.mark.parametrize("outside", [False, True], ids=["tape inside", "tape outside"])
def test_cond(expected: evaluation.Result, branch: bool, outside: bool) -> None:
    def value(user_emb: tf.Tensor, condition: tf.Tensor) -> tf.Tensor:
        return tf.cond(condition, lambda: _loss(user_emb), lambda: 4.0 * _loss(user_emb))

    def gradient(user_emb: tf.Tensor, condition: tf.Tensor) -> tf.Tensor:
        function = tf.function(value, autograph=False) if outside else value
        with tf.GradientTape() as tape:
            tape.watch(user_emb)
            loss = function(user_emb, condition)
        return tape.gradient(loss, user_emb)

    function = gradient if outside else tf.function(gradient, autograph=False)
    actual = function(tf.constant(PROBLEM.user_emb), tf.constant(branch))
    _assert_gradient(actual, expected, 1.0 if branch else 4.0)


def test_recompute_grad(expected: evaluation.Result) -> None:
    user_emb = tf.constant(PROBLEM.user_emb)
    with tf.GradientTape() as tape:
        tape.watch(user_emb)
        loss = tf.recompute_grad(_loss)(user_emb)
    _assert_gradient(tape.gradient(loss, user_emb), expected)


@pytest.mark.parametrize("shape", [[24, 10], [None, 10], [None, None]], ids=str)
def test_xla(backend: str, shape: list[int | None]) -> None:
    """Everything fused steps aside for the reference composition, gradients and loops included."""
    expected = evaluation.run(fastneg.reference.softmax_loss_with_negative_mining, PROBLEM)

    @tf.function(
        jit_compile=True, autograph=False, input_signature=[tf.TensorSpec(shape), tf.TensorSpec([])]
    )
    def gradient(user_emb: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(user_emb)
            loss = tf.cond(factor > 0, lambda: factor * _loss(user_emb), lambda: factor)
        return tape.gradient(loss, user_emb)

    _assert_gradient(gradient(PROBLEM.user_emb, 2.0), expected, 2.0)


def test_xla_draws_shifts(backend: str) -> None:
    @tf.function(jit_compile=True, autograph=False)
    def losses() -> tf.Tensor:
        return tf.stack([LOSS(PROBLEM.user_emb, PROBLEM.item_emb, PROBLEM.labels) for _ in "ab"])

    assert np.all(np.isfinite(losses()))


def test_mirrored_strategy(backend: str) -> None:
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        scale = tf.Variable(5.0)

    @tf.function(autograph=False)
    def step(user_emb: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        def replica(user_emb: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            with tf.GradientTape() as tape:
                tape.watch(user_emb)
                loss = _loss(user_emb, gamma=scale)
            return tuple(tape.gradient(loss, [user_emb, scale]))

        return strategy.run(replica, (user_emb,))

    expected = evaluation.run(LOSS, PROBLEM.with_options(gamma=5.0))
    grad_user, grad_scale = step(tf.constant(PROBLEM.user_emb))
    _assert_gradient(grad_user, expected)
    np.testing.assert_allclose(grad_scale, expected.grad_gamma, rtol=1e-5)


def test_two_threads_at_once(backend: str) -> None:
    problem = problems.make(300, 40, 32)
    expected = evaluation.run(LOSS, problem)
    results: list[evaluation.Result] = []

    def work(mode: str) -> None:
        for _ in range(5):
            results.append(evaluation.run(LOSS, problem, mode))

    threads = [threading.Thread(target=work, args=(mode,)) for mode in ("eager", "graph")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 10
    for result in results:
        np.testing.assert_allclose(result.loss, expected.loss, rtol=1e-6)
        np.testing.assert_allclose(result.grad_user, expected.grad_user, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("trainable", ["gamma", "margin", "t", "weights"])
def test_variables_as_options(backend: str, trainable: str) -> None:
    variable = tf.Variable(np.full(24, 0.5) if trainable == "weights" else 0.7, dtype=tf.float64)
    with tf.GradientTape() as tape:
        loss = _loss(tf.constant(PROBLEM.user_emb), **{trainable: variable})
    gradient = tape.gradient(loss, variable)
    assert gradient.dtype == tf.float64
    assert gradient.shape == variable.shape
    assert np.any(gradient != 0)
