"""Value and gradients against the float64 truth, over shapes, dtypes, options and modes."""

import functools

import evaluation
import numpy as np
import problems
import pytest
import tensorflow as tf

import fastneg

# Options that change the path through the kernels. `None` stands for what `with_everything` adds.
OPTIONS = {
    "defaults": {"gamma": 1.0, "margin": 0.0, "t": 1.0},
    "normed": {"embed_normed": True},
    "everything": None,
    "large gamma": {"gamma": 500.0},
    "gamma 0": {"gamma": 0.0},
    "negative gamma": {"gamma": -3.0},
    "t 0": {"t": 0.0},
    "negative t": {"t": -1.0},
    "large t": {"t": 40.0},
    "negative margin": {"margin": -0.7},
    "large margin": {"margin": 30.0},
}

LABELS = {
    "bool": lambda labels: labels > 0,
    "int8": lambda labels: labels.astype(np.int8),
    "uint16": lambda labels: labels.astype(np.uint16),
    "int32": lambda labels: labels.astype(np.int32) * 7,
    "int64": lambda labels: np.where(labels > 0, 1, -1),
    "uint64": lambda labels: labels.astype(np.uint64) << np.uint64(63),
    "float16": lambda labels: labels.astype(np.float16),
    "float64": lambda labels: np.where(labels > 0, 1e-300, -0.0),
    "column": lambda labels: labels[:, None],
    "all positive": np.ones_like,
    "one positive": lambda labels: np.eye(1, len(labels), 3)[0],
}


@functools.cache
def _of_shape(shape: tuple[int, int, int], dtype: str) -> problems.Problem:
    return problems.with_everything(problems.make(*shape, dtype))


@functools.cache
def _with_options(name: str, dtype: str) -> problems.Problem:
    problem = problems.make(61, 13, 24, dtype)
    if OPTIONS[name] is None:
        return problems.with_everything(problem)
    return problem.with_options(**OPTIONS[name])


@functools.cache
def _with_labels(name: str) -> problems.Problem:
    problem = problems.make(40, 6, 20)
    return problems.Problem(
        problem.user_emb,
        problem.item_emb,
        LABELS[name](problem.labels),
        problem.shifts,
        problem.options,
    )


_CACHE: dict[object, tuple[evaluation.Result, object]] = {}


def _assert_accurate(key: object, problem: problems.Problem, mode: str) -> None:
    if key not in _CACHE:
        plain = evaluation.run(fastneg.reference.softmax_loss_with_negative_mining, problem)
        _CACHE[key] = plain, evaluation.truth(problem)
    plain, truth = _CACHE[key]
    result = evaluation.run(fastneg.softmax_loss_with_negative_mining, problem, mode)
    evaluation.assert_as_accurate(result, plain, truth, problem)


@pytest.mark.parametrize("dtype", problems.DTYPES)
@pytest.mark.parametrize("shape", problems.SHAPES, ids=str)
def test_shapes(backend: str, shape: tuple[int, int, int], dtype: str) -> None:
    _assert_accurate(("shape", shape, dtype), _of_shape(shape, dtype), "eager")


@pytest.mark.parametrize(
    ("mode", "dtype"),
    [("graph", "float32"), *(("unknown_batch", dtype) for dtype in problems.DTYPES)],
)
@pytest.mark.parametrize("shape", [(33, 8, 50), (129, 128, 8)], ids=str)
def test_graphs(backend: str, shape: tuple[int, int, int], dtype: str, mode: str) -> None:
    _assert_accurate(("shape", shape, dtype), _of_shape(shape, dtype), mode)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", OPTIONS)
def test_options(backend: str, options: str, dtype: str) -> None:
    _assert_accurate(("options", options, dtype), _with_options(options, dtype), "eager")


@pytest.mark.parametrize("labels", LABELS)
def test_labels(backend: str, labels: str) -> None:
    _assert_accurate(("labels", labels), _with_labels(labels), "eager")


@pytest.mark.parametrize(
    ("dtype", "mode", "tolerance"),
    [
        ("float16", "eager", 1e-3),
        ("bfloat16", "xla", 1e-2),
        ("float32", "eager", 2e-5),
        ("float64", "eager", 1e-12),
        ("float64", "graph", 1e-12),
        ("float64", "unknown_batch", 1e-12),
        ("float64", "xla", 1e-12),
    ],
)
def test_reference_is_the_truth(dtype: str, mode: str, tolerance: float) -> None:
    """The composition itself is correct to the precision of its dtype, eagerly and inside XLA.

    There bfloat16 stands for float32 too, in which it is computed: XLA takes seconds to compile.
    """
    problem = _with_options("everything", dtype)
    truth = evaluation.truth(problem)
    result = evaluation.run(fastneg.reference.softmax_loss_with_negative_mining, problem, mode)
    for name, actual, exact in zip(result._fields, result, truth, strict=True):
        np.testing.assert_allclose(
            actual.astype(np.float64),
            exact,
            rtol=0,
            atol=tolerance * np.max(np.abs(exact)),
            err_msg=name,
        )


@pytest.mark.parametrize("weights", [2.5, np.float32(2.5), np.array(2.5), tf.constant(2.5), -1])
def test_number_as_weight_scales_the_loss(backend: str, weights: object) -> None:
    problem = problems.make(20, 3, 8)
    plain = evaluation.run(fastneg.softmax_loss_with_negative_mining, problem)

    def weighted(**arguments: object) -> tf.Tensor:
        return fastneg.softmax_loss_with_negative_mining(weights=weights, **arguments)

    result = evaluation.run(weighted, problem)
    factor = float(weights)
    np.testing.assert_allclose(result.loss, factor * plain.loss, rtol=1e-6)
    np.testing.assert_allclose(
        result.grad_user, factor * plain.grad_user, rtol=1e-5, atol=1e-7 * abs(factor)
    )


def test_gradient_of_a_scalar_weight(backend: str) -> None:
    problem = problems.make(20, 3, 8)
    weight = tf.Variable(2.0)
    with tf.GradientTape() as tape:
        loss = fastneg.softmax_loss_with_negative_mining(
            problem.user_emb,
            problem.item_emb,
            problem.labels,
            shifts=problem.shifts,
            weights=weight,
        )
    np.testing.assert_allclose(tape.gradient(loss, weight), loss / 2.0, rtol=1e-6)


def test_shifts_count_modulo_the_batch(backend: str) -> None:
    problem = problems.make(8, 4, 5)
    extreme = np.array([1, 3, -5, np.iinfo(np.int64).min + 7, np.iinfo(np.int64).max])
    results = [
        fastneg.softmax_loss_with_negative_mining(
            problem.user_emb, problem.item_emb, problem.labels, shifts=shifts
        ).numpy()
        for shifts in (extreme, extreme % 8, tf.constant(extreme % 8, tf.int8))
    ]
    assert results[0] == results[1] == results[2]


def test_more_pairs_than_int32_counts(backend: str) -> None:
    """B * K beyond 2^31, with so few rows that count that it takes no time."""
    batch_size, num_negatives = 1 << 17, 16400
    rng = np.random.default_rng(0)
    labels = np.zeros(batch_size, np.int8)
    labels[[5, batch_size - 1]] = 1
    problem = problems.Problem(
        rng.normal(size=(batch_size, 2)).astype(np.float32),
        rng.normal(size=(batch_size, 2)).astype(np.float32),
        labels,
        rng.integers(1, batch_size, num_negatives),
        {"gamma": 5.0},
    )
    loss = fastneg.softmax_loss_with_negative_mining(
        problem.user_emb, problem.item_emb, labels, shifts=problem.shifts, gamma=5.0
    )
    np.testing.assert_allclose(loss, evaluation.truth(problem).loss, rtol=1e-5)
