"""Value and gradients against the float64 truth, over shapes, dtypes, options and modes."""

import functools

import numpy as np
import problems
import pytest
import sv_softmax_cases as cases
import tensorflow as tf

import fastneg

LOSS = fastneg.support_vector_guided_softmax_loss

# Options that change the path through the kernels, or what is hard.
OPTIONS = {
    "defaults": {"smooth": 1.0, "margin": 0.0, "t": 1.0, "threshold": 0.0},
    "large smooth": {"smooth": 200.0},
    "smooth 0": {"smooth": 0.0},
    "negative smooth": {"smooth": -30.0},
    "t 0": {"t": 0.0},
    "negative t": {"t": -1.0},
    "large t": {"t": 40.0},
    "negative margin": {"margin": -2.0},
    "large margin": {"margin": 60.0},
    "all hard": {"threshold": 100.0},
    "none hard": {"threshold": -100.0},
}


@functools.cache
def _of_shape(shape: tuple[int, int], dtype: str) -> cases.Case:
    return cases.with_weights(cases.make(*shape, dtype))


@functools.cache
def _with_options(name: str, dtype: str, num_negatives: int) -> cases.Case:
    return cases.make(61, num_negatives, dtype, **OPTIONS[name])


_CACHE: dict[object, tuple[cases.Result, object]] = {}


def _assert_accurate(key: object, case: cases.Case, mode: str) -> None:
    if key not in _CACHE:
        reference = fastneg.reference.support_vector_guided_softmax_loss
        _CACHE[key] = cases.run(reference, case), cases.truth(case)
    plain, truth = _CACHE[key]
    cases.assert_as_accurate(cases.run(LOSS, case, mode), plain, truth, case)


@pytest.mark.parametrize("dtype", problems.DTYPES)
@pytest.mark.parametrize("shape", cases.SHAPES, ids=str)
def test_shapes(backend: str, shape: tuple[int, int], dtype: str) -> None:
    _assert_accurate(("shape", shape, dtype), _of_shape(shape, dtype), "eager")


@pytest.mark.parametrize(
    ("mode", "dtype"),
    [("graph", "float32"), *(("unknown_size", dtype) for dtype in problems.DTYPES)],
)
@pytest.mark.parametrize("shape", [(70, 5), (35, 100), (3, 5003)], ids=str)
def test_graphs(backend: str, shape: tuple[int, int], dtype: str, mode: str) -> None:
    _assert_accurate(("shape", shape, dtype), _of_shape(shape, dtype), mode)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("num_negatives", [6, 50])
@pytest.mark.parametrize("options", OPTIONS)
def test_options(backend: str, options: str, num_negatives: int, dtype: str) -> None:
    case = _with_options(options, dtype, num_negatives)
    _assert_accurate(("options", options, num_negatives, dtype), case, "eager")


@pytest.mark.parametrize(
    ("dtype", "mode", "tolerance"),
    [
        ("float16", "eager", 1e-3),
        ("bfloat16", "xla", 1e-2),
        ("float32", "eager", 2e-5),
        ("float64", "eager", 1e-12),
        ("float64", "graph", 1e-12),
        ("float64", "unknown_size", 1e-12),
        ("float64", "xla", 1e-12),
    ],
)
def test_reference_is_the_truth(dtype: str, mode: str, tolerance: float) -> None:
    """The composition itself is correct to the precision of its dtype, eagerly and inside XLA.

    There bfloat16 stands for float32 too, in which it is computed: XLA takes seconds to compile.
    """
    case = _of_shape((70, 5), dtype)
    truth = cases.truth(case)
    result = cases.run(fastneg.reference.support_vector_guided_softmax_loss, case, mode)
    for name, actual, exact in zip(result._fields, result, truth, strict=True):
        np.testing.assert_allclose(
            actual.astype(np.float64),
            exact,
            rtol=0,
            atol=tolerance * np.max(np.abs(exact)),
            err_msg=name,
        )


def test_by_hand(backend: str) -> None:
    """One easy and one hard negative, in numbers that need no computer."""
    loss = LOSS([2.0], [[0.0, 3.0]], margin=1.0, t=2.0)
    # p = 1; 0 is easy; 3 is hard and becomes 2 * 3 + 2 - 1 = 7.
    np.testing.assert_allclose(loss, np.log(np.exp(1) + np.exp(0) + np.exp(7)) - 1, rtol=1e-6)


def test_equal_to_the_threshold_is_easy(backend: str) -> None:
    # p - c = 0.5 in both; with t = 3 a hard negative of score 0.5 would count as 3.5.
    easy, hard = (LOSS([1.0], [[0.5]], t=3.0, threshold=threshold) for threshold in (0.5, 0.501))
    np.testing.assert_allclose(easy, np.log1p(np.exp(-0.5)), rtol=1e-6)
    np.testing.assert_allclose(hard, np.log1p(np.exp(2.5)), rtol=1e-6)


@pytest.mark.parametrize("weights", [2.5, np.float32(2.5), np.array(2.5), tf.constant(2.5), -1])
def test_number_as_weight_scales_the_loss(backend: str, weights: object) -> None:
    case = cases.make(20, 3)
    plain = cases.run(LOSS, case)
    result = cases.run(lambda **arguments: LOSS(weights=weights, **arguments), case)
    factor = float(weights)
    np.testing.assert_allclose(result.loss, factor * plain.loss, rtol=1e-6)
    np.testing.assert_allclose(
        result.grad_neg, factor * plain.grad_neg, rtol=1e-5, atol=1e-8 * abs(factor)
    )


@pytest.mark.parametrize("columns", ["pos_score", "weights", "both"])
def test_columns(backend: str, columns: str) -> None:
    case = cases.with_weights(cases.make(20, 7))
    expected = cases.run(LOSS, case)
    pos_score, weights = case.pos_score, case.options["weights"]
    if columns != "weights":
        pos_score = pos_score[:, None]
    if columns != "pos_score":
        weights = weights[:, None]
    column = cases.Case(pos_score, case.neg_scores, {**case.options, "weights": weights})
    for mode in ("eager", "unknown_size"):
        result = cases.run(LOSS, column, mode)
        assert result.grad_pos.shape == pos_score.shape
        assert result.grad_weights.shape == weights.shape
        for name, one, two in zip(result._fields, result, expected, strict=True):
            # TensorFlow rewrites the reference's graph, and its last bits with it.
            np.testing.assert_allclose(
                np.ravel(one), np.ravel(two), rtol=1e-5, atol=1e-7, err_msg=name
            )


def test_tensor_as_threshold(backend: str) -> None:
    case = cases.make(20, 7)
    threshold = tf.Variable(case.options["threshold"])
    with tf.GradientTape() as tape:
        loss = LOSS(
            tf.Variable(case.pos_score), case.neg_scores, **{**case.options, "threshold": threshold}
        )
    assert tape.gradient(loss, threshold) is None
    np.testing.assert_array_equal(loss, LOSS(case.pos_score, case.neg_scores, **case.options))


def test_agrees_with_the_loss_that_rolls(backend: str) -> None:
    """Scores computed here, from the same rolled candidates."""
    problem = problems.make(40, 6, 12, positive_share=1.0)
    users, items = (
        rows / np.linalg.norm(rows, axis=1, keepdims=True)
        for rows in (problem.user_emb, problem.item_emb)
    )
    scores = np.stack([np.sum(users * np.roll(items, s, axis=0), axis=1) for s in problem.shifts])
    gamma, margin, t = (problem.options[name] for name in ("gamma", "margin", "t"))
    given = LOSS(np.sum(users * items, axis=1), scores.T, margin=margin, t=t, smooth=gamma)
    rolled = fastneg.softmax_loss_with_negative_mining(
        problem.user_emb, problem.item_emb, problem.labels, shifts=problem.shifts, **problem.options
    )
    np.testing.assert_allclose(given, rolled, rtol=1e-5)


@pytest.mark.parametrize("shape", [(50, 5), (40, 100), (3, 9000)], ids=str)
def test_the_only_reference_to_the_scores_is_the_loss(backend: str, shape: tuple[int, int]) -> None:
    """The gradient may then take the place of the scores in memory; what it is does not change."""
    case = cases.with_weights(cases.make(*shape, smooth=40.0))

    @tf.function(autograph=False)
    def gradients(pos_score: tf.Tensor, half: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch([pos_score, half])
            loss = LOSS(pos_score, half + half, **case.options)
        return [loss, *tape.gradient(loss, [pos_score, half])]

    half = case.neg_scores / 2
    loss, grad_pos, grad_half = gradients(tf.constant(case.pos_score), tf.constant(half))
    expected = cases.run(LOSS, case)
    np.testing.assert_allclose(loss, expected.loss, rtol=1e-6)
    np.testing.assert_allclose(grad_pos, expected.grad_pos, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grad_half, 2 * expected.grad_neg, rtol=1e-5, atol=1e-6)
