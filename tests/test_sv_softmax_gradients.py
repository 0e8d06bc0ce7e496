"""Gradients by finite differences, upstream gradients, and what has none."""

import numpy as np
import problems
import pytest
import sv_softmax_cases as cases
import tensorflow as tf

import fastneg

LOSS = fastneg.support_vector_guided_softmax_loss
_STEP = 1e-6


def _arguments(width: int) -> dict[str, np.ndarray]:
    case = cases.with_weights(cases.make(9, width, "float64", seed=3))
    options = {name: np.asarray(value, np.float64) for name, value in case.options.items()}
    return {"pos_score": case.pos_score, "neg_scores": case.neg_scores, **options}


@pytest.mark.parametrize("name", ["pos_score", "neg_scores", "weights", "smooth", "margin", "t"])
@pytest.mark.parametrize("width", [5, 19])
def test_finite_differences(backend: str, width: int, name: str) -> None:
    arguments = _arguments(width)
    variable = tf.Variable(arguments[name])
    with tf.GradientTape() as tape:
        value = LOSS(**{**arguments, name: variable})
    actual = tape.gradient(value, variable).numpy()
    expected = np.zeros_like(arguments[name])
    for index in np.ndindex(expected.shape):
        step = np.zeros_like(expected)
        step[index] = _STEP
        high, low = (
            float(LOSS(**{**arguments, name: arguments[name] + shift})) for shift in (step, -step)
        )
        expected[index] = (high - low) / (2 * _STEP)
    if name == "weights":
        # The number of rows jumps where a weight becomes 0: there the gradient is no slope.
        slopes = arguments["weights"] != 0
        actual, expected = actual[slopes], expected[slopes]
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("width", [4, 30])
def test_gradient_of_a_zero_weight_is_the_loss_of_its_row(backend: str, width: int) -> None:
    case = cases.make(6, width, "float64")
    weights = np.array([1.0, 0, 2, 0, 0, 1])
    result = cases.run(LOSS, case.with_options(weights=weights))
    alone = [cases.run(LOSS, case.with_options(weights=np.eye(6)[row])).loss for row in range(6)]
    np.testing.assert_allclose(result.grad_weights, np.array(alone) / 3, rtol=1e-12)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("dtype", problems.DTYPES)
def test_upstream_gradient(backend: str, dtype: str, mode: str) -> None:
    """A loss inside a larger expression: its gradient is scaled, and comes back in its dtype."""
    case = cases.with_weights(cases.make(12, 7, dtype))
    plain = cases.run(LOSS, case, mode)
    scaled = cases.run(lambda **arguments: -3.0 * LOSS(**arguments) + 1.0, case, mode)
    for name, alone, inside in zip(plain._fields[1:], plain[1:], scaled[1:], strict=True):
        assert inside.dtype == alone.dtype, name
        epsilon = np.finfo(np.float32).eps if alone.dtype.itemsize > 2 else 0.01
        np.testing.assert_allclose(
            inside.astype(np.float64),
            -3.0 * alone.astype(np.float64),
            rtol=4 * epsilon,
            atol=4 * epsilon * np.abs(alone.astype(np.float64)).max(),
            err_msg=name,
        )


@pytest.mark.parametrize("wanted", ["pos_score", "neg_scores", "smooth", "margin", "t"])
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_gradient_of_one_input_only(backend: str, mode: str, wanted: str) -> None:
    case = cases.make(20, 6)
    expected = getattr(
        cases.run(LOSS, case),
        {"pos_score": "grad_pos", "neg_scores": "grad_neg"}.get(wanted, f"grad_{wanted}"),
    )
    arguments = {"pos_score": case.pos_score, "neg_scores": case.neg_scores, **case.options}

    def gradient(value: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(value)
            loss = LOSS(**{**arguments, wanted: value})
        return tape.gradient(loss, value)

    function = tf.function(gradient, autograph=False) if mode == "graph" else gradient
    actual = function(tf.constant(arguments[wanted]))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)


def test_forward_mode(backend: str) -> None:
    case = cases.make(8, 5, "float64")
    result = cases.run(LOSS, case)
    direction = np.random.default_rng(0).normal(size=case.neg_scores.shape)
    neg_scores = tf.constant(case.neg_scores)
    with tf.autodiff.ForwardAccumulator(neg_scores, tf.constant(direction)) as accumulator:
        loss = LOSS(case.pos_score, neg_scores, **case.options)
    np.testing.assert_allclose(
        accumulator.jvp(loss), np.sum(result.grad_neg * direction), rtol=1e-10
    )


@pytest.mark.parametrize("mode", ["eager", "graph", "inner function"])
def test_second_derivative_names_the_reference(fused_backend: str, mode: str) -> None:
    def gradient(neg_scores: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(neg_scores)
            loss = LOSS(tf.ones([4]), neg_scores, smooth=2.0)
        return tape.gradient(loss, neg_scores)

    def second(neg_scores: tf.Tensor) -> tf.Tensor:
        inner = tf.function(gradient, autograph=False) if mode == "inner function" else gradient
        with tf.GradientTape() as tape:
            tape.watch(neg_scores)
            first = inner(neg_scores)
        return tape.gradient(first, neg_scores)

    neg_scores = tf.constant(cases.make(4, 3).neg_scores)
    outer = tf.function(second, autograph=False) if mode == "graph" else second
    with pytest.raises(LookupError, match=r"reference"):
        outer(neg_scores)
    with fastneg.use_backend("reference"):
        assert np.all(np.isfinite(second(neg_scores)))


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_persistent_tape(backend: str, mode: str) -> None:
    case = cases.make(8, 5)
    expected = cases.run(LOSS, case)

    def gradients(neg_scores: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(neg_scores)
            loss = LOSS(case.pos_score, neg_scores, **case.options)
            inside = tape.gradient(loss, neg_scores)
        return inside, tape.gradient(loss, neg_scores)

    function = tf.function(gradients, autograph=False) if mode == "graph" else gradients
    inside, after = function(tf.constant(case.neg_scores))
    np.testing.assert_allclose(inside, expected.grad_neg, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(after, expected.grad_neg, rtol=1e-5, atol=1e-8)
