"""positive_in_softmax, negative_weight and correction: values by hand, and against the truth."""

import functools
from collections.abc import Callable
from typing import Any

import evaluation
import numpy as np
import problems
import pytest
import shuffled_problems
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from row_options import OUT, ROW_OPTIONS, any_row_options

import fastneg

ROLLED = fastneg.softmax_loss_with_negative_mining
SHUFFLED = fastneg.negative_cosine_loss
_SETTINGS = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def _rolled_by_hand(**options: Any) -> Any:
    """Users of 1 and items log 2, log 3 and log 5, whose exponentials are those numbers."""
    users, items = np.ones((3, 1)), np.log([[2.0], [3.0], [5.0]])
    return ROLLED(users, items, [1, 1, 1], embed_normed=True, shifts=[1, 2], **options)


def _shuffled_by_hand(**options: Any) -> Any:
    """Documents whose exponentials are 4, 2 and 1 for every query."""
    queries, half = np.array([[1.0, 0.0]] * 3), np.sqrt(0.75)
    docs = np.array([[1.0, 0.0], [0.5, half], [0.0, 1.0]])
    shuffles = [[1, 2, 0], [2, 0, 1]]
    return SHUFFLED(queries, docs, scale=np.log(4), permutations=shuffles, **options)


_Q = [1 / 2, 1 / 4, 1 / 5]
_IDS = [7, 7, 8]
_BY_HAND: dict[str, tuple[Callable[..., Any], dict[str, Any], list[float]]] = {
    # Negatives of 2: 3 + 5; of 3: 2 + 5; of 5: 2 + 3.
    "rolled, decoupled": (_rolled_by_hand, OUT, [8 / 2, 7 / 3, 5 / 5]),
    "rolled, bilateral": (
        _rolled_by_hand,
        {**OUT, "negative_weight": 2.0},
        [64 / 2, 49 / 3, 25 / 5],
    ),
    "rolled, no weight": (_rolled_by_hand, {**OUT, "negative_weight": 0.0}, [1 / 2, 1 / 3, 1 / 5]),
    # 2 / q: 4, 12, 25, those of negatives and of the positive.
    "rolled, corrected": (
        _rolled_by_hand,
        {**OUT, "candidate_sampling_probability": _Q},
        [37 / 4, 29 / 12, 16 / 25],
    ),
    "rolled, hits": (_rolled_by_hand, {**OUT, "candidate_ids": _IDS}, [5 / 2, 5 / 3, 5 / 5]),
    "rolled, all hits": (_rolled_by_hand, {**OUT, "candidate_ids": [1, 1, 1]}, [1, 1, 1]),
    "shuffled, decoupled": (_shuffled_by_hand, OUT, [3 / 4, 5 / 2, 6 / 1]),
    "shuffled, bilateral": (
        _shuffled_by_hand,
        {**OUT, "negative_weight": 3.0},
        [27 / 4, 125 / 2, 216 / 1],
    ),
    "shuffled, hits": (_shuffled_by_hand, {**OUT, "candidate_ids": _IDS}, [1 / 4, 1 / 2, 6 / 1]),
}


@pytest.mark.parametrize("name", _BY_HAND)
def test_by_hand(backend: str, name: str) -> None:
    loss, options, odds = _BY_HAND[name]
    np.testing.assert_allclose(loss(**options), np.mean(np.log(odds)), rtol=1e-12, atol=1e-14)


def test_refined_by_hand(backend: str) -> None:
    """Negatives over their q and times 1 minus the row's, their mean over itself plus the own."""
    odds = [37 / 2 / 2, 87 / 4 / 3, 64 / 5 / 5]
    factors = [37 / 45, 87 / 111, 32 / 57]
    expected = np.mean(np.log(odds) * factors)
    loss = _rolled_by_hand(correction="refined", candidate_sampling_probability=_Q)
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    # 4, 2 and 1: negatives (8 + 5) / 2 of 4, (8 + 5) * 3 / 4 of 2, (8 + 8) * 4 / 5 of 1.
    odds = [13 / 2 / 4, 39 / 4 / 2, 64 / 5 / 1]
    factors = [13 / 29, 39 / 55, 32 / 37]
    loss = _shuffled_by_hand(
        correction="refined", negative_weight=1.0, candidate_sampling_probability=_Q
    )
    np.testing.assert_allclose(loss, np.mean(np.log(odds) * factors), rtol=1e-12)


def test_gradients_by_hand(backend: str) -> None:
    """Of L_0 = 2 log(3^u + 5^u) - u log 2 and its like, by u at 1 and by the items."""
    users, items = tf.Variable(np.ones((3, 1))), tf.Variable(np.log([[2.0], [3.0], [5.0]]))
    gamma = tf.Variable(1.0, dtype=tf.float64)
    with tf.GradientTape() as tape:
        loss = ROLLED(
            users,
            items,
            [1, 1, 1],
            embed_normed=True,
            shifts=[1, 2],
            gamma=gamma,
            positive_in_softmax=False,
            negative_weight=2.0,
        )
    by_user, by_item, by_gamma = tape.gradient(loss, [users, items, gamma])
    two, three, five = np.log([2, 3, 5])
    rows = np.array(
        [
            2 * (3 * three + 5 * five) / 8 - two,
            2 * (2 * two + 5 * five) / 7 - three,
            2 * (2 * two + 3 * three) / 5 - five,
        ]
    )
    columns = np.array(
        [
            2 * (2 / 7 + 2 / 5) - 1,
            2 * (3 / 8 + 3 / 5) - 1,
            2 * (5 / 8 + 5 / 7) - 1,
        ]
    )
    np.testing.assert_allclose(by_user, rows[:, None] / 3, rtol=1e-12)
    np.testing.assert_allclose(by_item, columns[:, None] / 3, rtol=1e-12)
    np.testing.assert_allclose(by_gamma, np.mean(rows), rtol=1e-12)


@functools.cache  # For both fused backends.
def _expected(options: str, dtype: str, shape: tuple[int, int, int]) -> Any:
    rolled = problems.with_everything(problems.make(*shape, dtype))
    rolled = rolled.with_options(**ROW_OPTIONS[options])
    plain = evaluation.run(fastneg.reference.softmax_loss_with_negative_mining, rolled)
    return rolled, plain, evaluation.truth(rolled)


def _assert_rolled(problem: problems.Problem, mode: str = "eager") -> None:
    plain = evaluation.run(fastneg.reference.softmax_loss_with_negative_mining, problem)
    result = evaluation.run(ROLLED, problem, mode)
    evaluation.assert_as_accurate(result, plain, evaluation.truth(problem), problem)


def _assert_shuffled(problem: shuffled_problems.Problem, mode: str = "eager") -> None:
    plain = shuffled_problems.run(fastneg.reference.negative_cosine_loss, problem)
    result = shuffled_problems.run(SHUFFLED, problem, mode)
    shuffled_problems.assert_as_accurate(result, plain, problem)


@pytest.mark.parametrize("shape", [(61, 13, 24), (130, 64, 31)], ids=str)
@pytest.mark.parametrize("dtype", problems.DTYPES)
@pytest.mark.parametrize("options", ROW_OPTIONS)
def test_truth(fused_backend: str, options: str, dtype: str, shape: tuple[int, int, int]) -> None:
    rolled, plain, truth = _expected(options, dtype, shape)
    evaluation.assert_as_accurate(evaluation.run(ROLLED, rolled), plain, truth, rolled)
    shuffled = shuffled_problems.with_everything(shuffled_problems.make(*shape, dtype))
    _assert_shuffled(shuffled.with_options(**ROW_OPTIONS[options]))


@pytest.mark.parametrize("mode", ["graph", "unknown_batch", "xla"])
@pytest.mark.parametrize("options", ["bilateral", "refined bilateral"])
def test_modes(fused_backend: str, options: str, mode: str) -> None:
    if mode == "xla" and fused_backend == "numba":
        pytest.skip("numba is not for XLA")
    rolled = problems.with_everything(problems.make(33, 8, 50))
    _assert_rolled(rolled.with_options(**ROW_OPTIONS[options]), mode)
    shuffled = shuffled_problems.with_everything(shuffled_problems.make(33, 8, 50))
    _assert_shuffled(shuffled.with_options(**ROW_OPTIONS[options]), mode)


@pytest.mark.parametrize("mode", ["eager", "xla"])
def test_reference_is_the_truth(reference: str, mode: str) -> None:
    problem = problems.with_everything(problems.make(61, 13, 24, "float64"))
    for options in ROW_OPTIONS.values():
        changed = problem.with_options(**options)
        truth = evaluation.truth(changed)
        result = evaluation.run(ROLLED, changed, mode)
        for name, actual, exact in zip(result._fields, result, truth, strict=True):
            tolerance = 1e-12 * np.max(np.abs(exact))
            np.testing.assert_allclose(actual, exact, rtol=0, atol=tolerance, err_msg=name)


@st.composite
def _rolled_problems(draw: st.DrawFn) -> problems.Problem:
    batch_size = draw(st.integers(2, 70))
    problem = problems.make(
        batch_size,
        draw(st.integers(1, batch_size - 1)),
        draw(st.integers(2, 40)),  # A derivative of width 1 is 0 but for rounding.
        draw(st.sampled_from(list(problems.DTYPES))),
        positive_share=draw(st.sampled_from([0.0, 0.3, 1.0])),
        seed=draw(st.integers(0, 1000)),
        gamma=draw(st.sampled_from([0.0, 1.0, 20.0, 45.0, 70.0, 150.0, -10.0])),
        margin=draw(st.sampled_from([-0.3, 0.0, 0.9])),
        t=draw(st.sampled_from([0.5, 1.0, 1.2, 3.0])),
        embed_normed=draw(st.booleans()),
    )
    if problem.options["embed_normed"]:
        for rows in (problem.user_emb, problem.item_emb):
            wide = rows.astype(np.float64)
            rows[:] = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(rows.dtype)
    if everything := draw(st.booleans()):
        problem = problems.with_everything(problem)
    return problem.with_options(**draw(any_row_options(everything)))


@_SETTINGS
@given(problem=_rolled_problems())
def test_any_rolled_problem(fused_backend: str, problem: problems.Problem) -> None:
    _assert_rolled(problem)


@st.composite
def _shuffled_problems(draw: st.DrawFn) -> shuffled_problems.Problem:
    problem = shuffled_problems.make(
        draw(st.integers(1, 50)),
        draw(st.integers(1, 40)),
        draw(st.integers(2, 40)),
        draw(st.sampled_from(list(problems.DTYPES))),
        draw(st.integers(0, 100)),
    )
    if everything := draw(st.booleans()):
        problem = shuffled_problems.with_everything(problem)
    problem = problem.with_options(
        scale=draw(st.sampled_from([1.0, 20.0, 100.0, -5.0])), t=draw(st.sampled_from([1.0, 0.5]))
    )
    return problem.with_options(**draw(any_row_options(everything)))


@_SETTINGS
@given(problem=_shuffled_problems())
def test_any_shuffled_problem(fused_backend: str, problem: shuffled_problems.Problem) -> None:
    _assert_shuffled(problem)
