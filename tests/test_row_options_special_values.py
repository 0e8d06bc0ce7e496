"""positive_in_softmax, negative_weight and correction where numbers are special, and refusals."""

from collections.abc import Callable
from typing import Any

import evaluation
import numpy as np
import problems
import pytest
import shuffled_problems
import tensorflow as tf
from bad_input import assert_refused
from row_options import OUT, ROW_OPTIONS

import fastneg

ROLLED = fastneg.softmax_loss_with_negative_mining
SHUFFLED = fastneg.negative_cosine_loss


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("options", ROW_OPTIONS)
def test_rows_without_a_negative(backend: str, options: str, mode: str) -> None:
    rolled = problems.with_everything(problems.make(8, 3, 4))
    rolled = rolled.with_options(candidate_ids=np.full(8, 3), **ROW_OPTIONS[options])
    shuffled = shuffled_problems.with_everything(shuffled_problems.make(8, 3, 4))
    shuffled = shuffled.with_options(candidate_ids=np.full(8, 3), **ROW_OPTIONS[options])
    for result in (
        evaluation.run(ROLLED, rolled, mode),
        shuffled_problems.run(SHUFFLED, shuffled, mode),
    ):
        for name, value in zip(result._fields, result, strict=True):
            assert not np.any(value), name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("gamma", [30.0, 49.0, 60.0, 300.0, 1e4])
@pytest.mark.parametrize("sign", [1, -1])
def test_negatives_far_from_the_positive(backend: str, sign: int, gamma: float, dtype: str) -> None:
    """Relative to the positive's logit their exponentials would be 0, or infinite."""
    problem = problems.make(40, 7, 6, dtype, positive_share=1.0, gamma=gamma, t=1.0)
    direction = np.ones(6) / np.sqrt(6)
    problem.user_emb[:] = direction + 0.01 * problem.user_emb
    problem.item_emb[:] = -sign * direction + 0.01 * problem.item_emb
    # The rows' own items are on the other side, and their negatives are other rows' items.
    problem.labels[:] = np.arange(40) % 8 == 0
    problem.item_emb[::8] *= -1
    problem = problem.with_options(positive_in_softmax=False, negative_weight=1.5)
    problem = problems.Problem(
        problem.user_emb, problem.item_emb, problem.labels, np.arange(1, 8), problem.options
    )
    plain = evaluation.run(fastneg.reference.softmax_loss_with_negative_mining, problem)
    truth, result = evaluation.truth(problem), evaluation.run(ROLLED, problem)
    assert abs(truth.loss) > 0.3 * gamma
    evaluation.assert_as_accurate(result, plain, truth, problem)


@pytest.mark.parametrize("options", ["decoupled", "bilateral", "no negatives' weight"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("num_negatives", [3, 9, 40])
def test_scores_of_minus_infinity_are_none(
    backend: str, num_negatives: int, dtype: str, options: str
) -> None:
    problem = problems.overflowing(num_negatives, dtype, -1.0)
    problem = problem.with_options(**ROW_OPTIONS[options])
    result, truth = evaluation.run(ROLLED, problem), evaluation.truth(problem)
    only = problem.shifts <= 3  # Row 8 with three negatives has none.
    if num_negatives == 3:
        labels = np.where(np.arange(48) == 8, 0, problem.labels)
        without = problems.Problem(
            problem.user_emb, problem.item_emb, labels, problem.shifts, problem.options
        )
        others = np.count_nonzero(labels)
        assert np.all(only)
        expected = evaluation.truth(without)
        truth = truth._replace(
            **{
                name: getattr(expected, name) * others / (others + 1)
                for name in ("loss", "grad_user", "grad_item", "grad_gamma", "grad_t")
            }
        )
    for name in ("loss", "grad_user", "grad_item", "grad_gamma", "grad_t"):
        actual, exact = getattr(result, name).astype(np.float64), np.asarray(getattr(truth, name))
        if name == "grad_item":
            actual[:, 0] /= 1e20
            exact[:, 0] /= 1e20
        tolerance = 1e-2 if dtype == "bfloat16" and "_" in name else 1e-5
        np.testing.assert_allclose(
            actual, exact, rtol=0, atol=tolerance * (1 + np.max(np.abs(exact))), err_msg=name
        )


@pytest.mark.parametrize("options", ["bilateral", "refined", "no negatives' weight"])
def test_rows_of_weight_zero_may_hold_anything(backend: str, options: str) -> None:
    problem = problems.make(6, 2, 4, positive_share=1.0)
    weights = np.array([1, 0, 1, 1, 0.5, 1], np.float32)
    probability = np.linspace(0.1, 0.6, 6, dtype=np.float32)
    problem = problem.with_options(
        weights=weights, candidate_sampling_probability=probability, **ROW_OPTIONS[options]
    )
    clean = evaluation.run(ROLLED, problem)
    problem.user_emb[1] = np.nan
    result = evaluation.run(ROLLED, problem)
    assert result.loss == clean.loss
    np.testing.assert_array_equal(result.grad_user, clean.grad_user)
    np.testing.assert_array_equal(result.grad_item, clean.grad_item)
    np.testing.assert_array_equal(np.isnan(result.grad_weights), weights == 0)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("side", ["user_emb", "item_emb"])
def test_bad_numbers_show(backend: str, side: str, bad: float, mode: str) -> None:
    problem = problems.make(6, 2, 4, positive_share=1.0).with_options(**OUT)
    getattr(problem, side)[3, 1] = bad
    assert not np.isfinite(evaluation.run(ROLLED, problem, mode).loss)


@pytest.mark.parametrize("probability", [0.0, 1e-12, 1.0, 3.0])
def test_probabilities_are_clipped(backend: str, probability: float) -> None:
    """Below at 1e-9, and so are those of all others."""
    values = np.full(8, probability)
    problem = problems.make(8, 3, 4, "float64", positive_share=1.0).with_options(
        correction="refined", candidate_sampling_probability=values
    )
    np.testing.assert_allclose(
        evaluation.run(ROLLED, problem).loss, evaluation.truth(problem).loss, rtol=1e-10
    )


def test_empty_batch(backend: str) -> None:
    none = np.zeros((0, 4), np.float32)
    for options in ROW_OPTIONS.values():
        probability = {"candidate_sampling_probability": np.zeros(0, np.float32)}
        assert ROLLED(none, none, [], **probability, **options) == 0
        assert SHUFFLED(none, none, **probability, **options) == 0


def test_second_derivatives(fused_backend: str) -> None:
    """The reference has them; the others say so."""
    problem = problems.make(12, 3, 4, "float64", positive_share=1.0)

    def gradient(backend: str, by: Any) -> tuple[Any, Any]:
        with fastneg.use_backend(backend), tf.GradientTape() as outer:
            outer.watch(by)
            with tf.GradientTape() as inner:
                inner.watch(by)
                loss = ROLLED(
                    by, problem.item_emb, problem.labels, shifts=problem.shifts, gamma=5.0, **OUT
                )
            first = inner.gradient(loss, by)
        return first, outer

    by = tf.constant(problem.user_emb)
    first, tape = gradient("reference", by)
    second = tape.gradient(first, by, tf.ones_like(by))
    step = 1e-5
    ahead, behind = (gradient("reference", by + sign * step)[0] for sign in (1, -1))
    np.testing.assert_allclose(second, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-8)
    first, tape = gradient(fused_backend, by)
    with pytest.raises(Exception, match="reference"):
        tape.gradient(first, by, tf.ones_like(by))


_TWO = np.ones((6, 2), np.float32)
_CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "rolled": (ROLLED, {"user_emb": _TWO, "item_emb": _TWO, "labels": np.ones(6)}),
    "shuffled": (SHUFFLED, {"query": _TWO, "doc": _TWO}),
}


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"negative_weight": 1.5}, "`negative_weight` must be 1 where .* Received: 1.5"),
        ({"positive_in_softmax": False, "negative_weight": np.nan}, "must be a finite number"),
        ({"positive_in_softmax": "no"}, "`positive_in_softmax` must be True or False"),
        ({"correction": "refined"}, "`candidate_sampling_probability` must be given where"),
        ({"correction": "best"}, '`correction` must be one of "standard", "refined". .*best'),
        ({"correction": None}, "`correction` must be one of .* Received: None"),
    ],
)
@pytest.mark.parametrize("loss", _CALLS)
def test_refused(backend: str, loss: str, changes: dict[str, Any], message: str, mode: str) -> None:
    function, arguments = _CALLS[loss]
    assert_refused(function, {**arguments, **changes}, message, mode)


@pytest.mark.parametrize("options", ["decoupled", "refined"])
def test_normalized_over_the_batch_there_is_no_choice(options: str) -> None:
    q = np.full(6, 0.5, np.float32)
    if "correction" not in ROW_OPTIONS[options]:
        q = None
    with pytest.raises(
        ValueError, match='`positive_in_softmax` must be True with normalize="batch"'
    ):
        SHUFFLED(
            _TWO,
            _TWO,
            normalize="batch",
            candidate_sampling_probability=q,
            **ROW_OPTIONS[options],
        )


def test_the_operations_refuse_too(native: str) -> None:
    """A caller may evade the functions."""
    from fastneg.backends.native.library import operations

    q = np.full(6, 0.5, np.float32)
    rolled = (_TWO, _TWO, np.ones(6), np.array([1, 2]), 1.0, 0.0, 1.0)
    shuffled = (_TWO, _TWO, np.arange(6)[None], 1.0)
    for operation, arguments, lists in (
        (operations().fastneg_rolled_softmax, rolled, ([], [q], [])),
        (operations().fastneg_shuffled_cosine, shuffled, ([q], [])),
    ):
        for weight, flags, message in (
            (2.0, {}, "`negative_weight` must be 1"),
            ([1.0], {}, "`negative_weight` must be a scalar"),
            (1.0, {"refined": True}, "`refined` must come with"),
        ):
            with pytest.raises(tf.errors.InvalidArgumentError, match=message):
                operation(*arguments, weight, *lists, **flags)
        none = [[] for _ in lists]
        with pytest.raises(tf.errors.InvalidArgumentError, match="`refined` must come with"):
            operation(*arguments, 1.0, *none, refined=True, positive_in_softmax=False)
        result = operation(*arguments, 1.0, *lists, refined=True, positive_in_softmax=False)
        assert np.isfinite(result.loss)
