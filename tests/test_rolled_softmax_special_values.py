"""Values at the edge: no rows, zero vectors, NaN and Inf, overflow."""

import evaluation
import numpy as np
import problems
import pytest
import tensorflow as tf

import fastneg

MODES = ("eager", "graph")
LOSS = fastneg.softmax_loss_with_negative_mining


def _replace(problem: problems.Problem, **fields: object) -> problems.Problem:
    return problems.Problem(
        **{
            **{
                name: getattr(problem, name)
                for name in ("user_emb", "item_emb", "labels", "shifts", "options")
            },
            **fields,
        }
    )


def _assert_zero(result: evaluation.Result) -> None:
    for name, value in zip(result._fields, result, strict=True):
        if value is not None:
            np.testing.assert_array_equal(value.astype(np.float64), 0.0, err_msg=name)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", problems.DTYPES)
def test_no_positive_label(backend: str, dtype: str, mode: str) -> None:
    problem = problems.make(6, 2, 4, dtype)
    _assert_zero(evaluation.run(LOSS, _replace(problem, labels=np.zeros(6)), mode))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bad", [0.0, np.nan])
def test_all_weights_zero(backend: str, bad: float, mode: str) -> None:
    problem = problems.make(6, 2, 4).with_options(weights=np.zeros(6, np.float32))
    problem.user_emb[2] += bad
    result = evaluation.run(LOSS, problem, mode)
    _assert_zero(result)


@pytest.mark.parametrize("weights", [0, 0.0, tf.constant(0.0)])
def test_weight_zero_hides_nan(backend: str, weights: object) -> None:
    problem = problems.make(6, 2, 4)
    problem.user_emb[2] = np.nan

    def loss(**arguments: object) -> tf.Tensor:
        return LOSS(weights=weights, **arguments)

    _assert_zero(evaluation.run(loss, problem))


@pytest.mark.parametrize(
    ("mode", "dtype"), [("graph", "float32"), *(("eager", dtype) for dtype in problems.DTYPES)]
)
@pytest.mark.parametrize("shifts", [[1], [0, 1, 2]])
def test_empty_batch(backend: str, dtype: str, mode: str, shifts: list[int]) -> None:
    embeddings = np.zeros([0, 4], problems.DTYPES[dtype])
    options = {"weights": np.zeros(0, problems.compute_dtype(embeddings.dtype))}
    problem = problems.Problem(embeddings, embeddings, np.zeros(0), np.array(shifts), options)
    result = evaluation.run(LOSS, problem, mode)
    _assert_zero(result)
    assert result.grad_user.shape == result.grad_item.shape == (0, 4)
    assert result.grad_weights.shape == (0,)


def test_empty_batch_with_drawn_shifts(backend: str) -> None:
    @tf.function(
        autograph=False,
        input_signature=[tf.TensorSpec([None, 4]), tf.TensorSpec([None, 4]), tf.TensorSpec([None])],
    )
    def loss(user_emb: tf.Tensor, item_emb: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return LOSS(user_emb, item_emb, labels)

    empty = tf.zeros([0, 4])
    assert loss(empty, empty, tf.zeros([0])) == 0.0
    assert LOSS(empty, empty, tf.zeros([0])) == 0.0


def test_embeddings_of_no_width(backend: str) -> None:
    loss = LOSS(tf.zeros([4, 0]), tf.zeros([4, 0]), tf.ones([4]), shifts=[1, 2])
    np.testing.assert_allclose(loss, np.log(3), rtol=1e-6)


@pytest.mark.parametrize("dtype", problems.DTYPES)
def test_zero_vector_has_cosine_zero_and_a_finite_gradient(backend: str, dtype: str) -> None:
    problem = problems.make(6, 2, 4, dtype, positive_share=1.0, gamma=1.0)
    problem.user_emb[1] = 0
    problem.item_emb[4] = 0
    result = evaluation.run(LOSS, problem)
    truth = evaluation.truth(problem)
    np.testing.assert_allclose(result.loss, truth.loss, rtol=1e-5)
    if dtype != "float16":  # 1e6, the slope of x / 1e-6, is beyond it.
        np.testing.assert_allclose(
            result.grad_user[1].astype(np.float64), truth.grad_user[1], rtol=1e-2
        )
        np.testing.assert_allclose(
            result.grad_item[4].astype(np.float64), truth.grad_item[4], rtol=1e-2
        )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["user_emb", "item_emb"])
def test_bad_embedding_in_a_used_row_shows(backend: str, side: str, bad: float, mode: str) -> None:
    problem = problems.make(6, 2, 4, positive_share=1.0)
    getattr(problem, side)[3, 1] = bad
    assert not np.isfinite(evaluation.run(LOSS, problem, mode).loss)


@pytest.mark.parametrize("mode", [*MODES, "xla"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_embedding_in_an_unused_row_does_not_matter(
    backend: str, bad: float, mode: str
) -> None:
    problem = problems.make(7, 2, 4)
    labels = np.array([1, 1, 0, 0, 0, 0, 1])
    # Rows 0, 1 and 6 use the items 0, 1, 4, 5 and 6.
    problem = _replace(problem, labels=labels, shifts=np.array([1, 2]))
    clean = evaluation.run(LOSS, problem, mode)
    problem.user_emb[2:6] = bad
    problem.item_emb[2:4] = bad
    result = evaluation.run(LOSS, problem, mode)
    for name, expected, actual in zip(clean._fields, clean, result, strict=True):
        if expected is not None:
            np.testing.assert_array_equal(actual, expected, err_msg=name)


@pytest.mark.parametrize("mode", MODES)
def test_bad_embedding_in_a_row_of_weight_zero(backend: str, mode: str) -> None:
    """The row adds nothing; the gradient of its weight is its loss, which is NaN."""
    problem = problems.make(6, 2, 4, positive_share=1.0)
    weights = np.array([1, 0, 1, 1, 0.5, 1], np.float32)
    clean = evaluation.run(LOSS, problem.with_options(weights=weights), mode)
    problem.user_emb[1] = np.nan
    result = evaluation.run(LOSS, problem.with_options(weights=weights), mode)
    assert result.loss == clean.loss
    np.testing.assert_array_equal(result.grad_user, clean.grad_user)
    np.testing.assert_array_equal(result.grad_item, clean.grad_item)
    np.testing.assert_array_equal(np.isnan(result.grad_weights), weights == 0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("gamma", [1e4, -1e4, 1e30, 1e300])
def test_huge_gamma(backend: str, dtype: str, gamma: float) -> None:
    """What the formula gives, which beyond the range of the dtype is not a finite number."""
    problem = problems.make(12, 3, 6, dtype).with_options(gamma=gamma)
    loss = evaluation.run(LOSS, problem).loss
    with np.errstate(all="ignore"):
        truth = evaluation.truth(problem)
    if np.isfinite(problems.compute_dtype(problem.dtype)(gamma)):
        np.testing.assert_allclose(loss, truth.loss, rtol=1e-5)
    else:
        assert not np.isfinite(loss)


def test_probability_is_clipped_below(backend: str) -> None:
    problem = problems.make(8, 3, 4)
    low, clipped = (np.array([value] + [0.5] * 7, np.float32) for value in (-1.0, 1e-9))
    losses = [
        evaluation.run(LOSS, problem.with_options(candidate_sampling_probability=probability)).loss
        for probability in (low, np.where(low < 0, 0, low), clipped)
    ]
    assert losses[0] == losses[1] == losses[2]


def test_all_negatives_are_accidental_hits(backend: str) -> None:
    problem = problems.make(8, 3, 4).with_options(candidate_ids=np.full(8, -7))
    _assert_zero(evaluation.run(LOSS, problem))


def test_ids_that_differ_in_high_bits_only(backend: str) -> None:
    problem = problems.make(8, 3, 4)
    different = problem.with_options(candidate_ids=np.arange(8) << 60)
    assert evaluation.run(LOSS, different).loss == evaluation.run(LOSS, problem).loss
