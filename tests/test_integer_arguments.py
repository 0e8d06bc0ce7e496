"""Integers that have become floats on their way, as Keras makes them of labels and ids."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

import fastneg

B = 4
EMB = np.random.default_rng(0).normal(size=(2, B, 3)).astype(np.float32)
TABLE = np.random.default_rng(1).normal(size=(9, 3)).astype(np.float32)
DTYPES = {
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
    "float32": np.float32,
    "float64": np.float64,
}
# The first whole number that may stand for its neighbour, too.
LIMITS = {"bfloat16": 256.0, "float16": 2048.0, "float32": 16777216.0, "float64": 2.0**53}


class Case(NamedTuple):
    name: str  # Of the argument, as messages have it.
    loss: Callable[[Any], tf.Tensor]
    integers: Any


def _sampled(labels: Any, sampled: Any) -> tf.Tensor:
    return fastneg.sampled_softmax_loss(
        TABLE, None, labels, EMB[0], 2, 9, sampled_values=(sampled, 0.3, [0.4, 0.4])
    )


CASES = {
    "rolled candidate_ids": Case(
        "candidate_ids",
        lambda ids: fastneg.softmax_loss_with_negative_mining(
            *EMB, np.ones(B), shifts=[1, 2], candidate_ids=ids
        ),
        [5, 5, -7, 200],
    ),
    "shifts": Case(
        "shifts",
        lambda shifts: fastneg.softmax_loss_with_negative_mining(*EMB, np.ones(B), shifts=shifts),
        [1, -3, 6],
    ),
    "shuffled candidate_ids": Case(
        "candidate_ids",
        lambda ids: fastneg.negative_cosine_loss(
            *EMB, permutations=[[1, 2, 3, 0]], candidate_ids=ids
        ),
        [5, 5, -7, 200],
    ),
    "permutations": Case(
        "permutations",
        lambda permutations: fastneg.negative_cosine_loss(*EMB, permutations=permutations),
        [[1, 2, 3, 0], [3, 2, 1, 0]],
    ),
    "session_ids": Case(
        "session_ids",
        lambda ids: fastneg.pairwise_loss([1, 0, 1, 0], EMB[0, :, 0], session_ids=ids),
        [5, 5, -7, 5],
    ),
    "labels": Case("labels", lambda labels: _sampled(labels, [3, 0]), [[8], [0], [3], [1]]),
    "in-batch candidate_ids": Case(
        "candidate_ids",
        lambda ids: fastneg.in_batch_softmax_loss(*EMB, candidate_ids=ids),
        [5, 5, -7, 200],
    ),
    "positives": Case(
        "positives",
        lambda positives: fastneg.in_batch_softmax_loss(*EMB, positives=positives),
        [3, 0, 0, 2],
    ),
    "candidate_ids of ranks": Case(
        "candidate_ids",
        lambda ids: fastneg.positive_ranks(*EMB, candidate_ids=ids),
        [5, 5, -7, 200],
    ),
    "positives of ranks": Case(
        "positives",
        lambda positives: fastneg.positive_ranks(*EMB, positives=positives),
        [3, 0, 0, 2],
    ),
    "samples": Case("sampled_values[0]", lambda sampled: _sampled([8, 0, 3, 1], sampled), [8, 4]),
}


NOT_IN_NUMBA = {
    name for name in CASES if "in-batch" in name or "positives" in name or "ranks" in name
}


def _cases(*backends: str) -> list[tuple[str, str]]:
    """Each argument with each backend that has the loss."""
    return [
        (backend, name)
        for name in CASES
        for backend in backends
        if backend != "numba" or name not in NOT_IN_NUMBA
    ]


@pytest.fixture(params=_cases("native", "numba", "reference"), ids="-".join)
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    yield from _with_backend(*request.param)


@pytest.fixture(params=_cases("native", "reference"), ids="-".join)
def case_in_xla(request: pytest.FixtureRequest) -> Iterator[Case]:
    """Without numba, which comes to the reference there."""
    yield from _with_backend(*request.param)


def _with_backend(backend: str, name: str) -> Iterator[Case]:
    try:
        choice = fastneg.use_backend(backend)
    except fastneg.BackendUnavailableError as error:
        pytest.skip(str(error))
    with choice:
        yield CASES[name]


def _traced_with(case: Case, value: Any) -> Callable[[], tf.Tensor]:
    """The loss of a constant, as a traced function."""
    return tf.function(lambda: case.loss(value), autograph=False)


def _with(case: Case, number: float, dtype: str) -> np.ndarray:
    """The integers with another number in the place of the last one."""
    values = np.array(case.integers, DTYPES[dtype])
    values.flat[-1] = number
    return values


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_whole_numbers_are_integers(case: Case, mode: str) -> None:
    expected = case.loss(np.array(case.integers))
    assert np.all(np.isfinite(expected))
    loss = case.loss if mode == "eager" else tf.function(case.loss, autograph=False)
    for dtype in DTYPES.values():
        actual = loss(tf.constant(np.array(case.integers, dtype)))
        np.testing.assert_allclose(actual, expected, rtol=1e-7)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_whole_numbers_inside_xla(case_in_xla: Case, dtype: str) -> None:
    case = case_in_xla
    function = tf.function(case.loss, autograph=False, jit_compile=True)
    actual = function(tf.constant(np.array(case.integers, DTYPES[dtype])))
    np.testing.assert_allclose(actual, case.loss(np.array(case.integers)), rtol=1e-5)


def test_lists_of_floats(case: Case) -> None:
    floats = np.array(case.integers, np.float64)
    np.testing.assert_array_equal(case.loss(floats.tolist()), case.loss(case.integers))
    np.testing.assert_array_equal(case.loss(floats), case.loss(case.integers))


# Checks are made before a backend is asked: one type is enough for the others to show it.
@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        *itertools.product(_cases("native"), DTYPES),
        *itertools.product(_cases("numba", "reference"), ["float32"]),
    ],
    ids=str,
    indirect=["case"],
)
def test_other_numbers_are_refused(case: Case, dtype: str) -> None:
    name = case.name.replace("[", r"\[").replace("]", r"\]")
    function = tf.function(case.loss, autograph=False)
    for number in (2.5, np.nan, -np.inf, LIMITS[dtype]):
        values = _with(case, number, dtype)
        received = repr(float(number))
        message = rf"`{name}` must be integers, which {dtype} holds exactly below 2\*\*"
        with pytest.raises(ValueError, match=rf"{message}\d+\. Received: {received}"):
            case.loss(values)
        with pytest.raises(
            tf.errors.InvalidArgumentError, match=rf"{message}\d+\. Received: {received}"
        ):
            case.loss(tf.constant(values))
        with pytest.raises(ValueError, match=message):
            _traced_with(case, values)()
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            function(tf.constant(values))
    # The function is as good as before.
    np.testing.assert_allclose(
        function(tf.constant(case.integers, dtype)), case.loss(case.integers), rtol=1e-6
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_other_numbers_inside_xla(case_in_xla: Case, dtype: str) -> None:
    """Nothing can be raised for them there: the loss is NaN, or an id that is none is refused."""
    case = case_in_xla
    function = tf.function(case.loss, autograph=False, jit_compile=True)
    for number in (2.5, np.nan, np.inf, LIMITS[dtype], -LIMITS[dtype]):
        refusal = ""
        try:
            loss = function(tf.constant(_with(case, number, dtype)))
        except tf.errors.InvalidArgumentError as error:
            loss, refusal = np.nan, str(error)
        wrong = np.isnan(loss) if np.asarray(loss).dtype.kind == "f" else np.equal(loss, -1)
        assert np.all(wrong)
        assert not refusal or f"`{case.name}`" in refusal
    assert np.all(np.isfinite(function(tf.constant(case.integers, dtype))))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_rounded_numbers_are_not_taken_for_integers(reference: str, case: Case) -> None:
    """16777217, as a float32, is 16777216."""
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"Received: 16777216\.0"):
        case.loss(tf.cast(_with(case, 16777217.0, "float64"), tf.float32))
    # Python's own floats are not made float32 on the way.
    if case.name in ("candidate_ids", "session_ids") and case.loss(case.integers).dtype.is_floating:
        apart = _with(case, 16777217.0, "float64")
        apart.flat[0] = 16777216.0
        alike = _with(case, 16777216.0, "float64")
        alike.flat[0] = 16777216.0
        assert case.loss(apart.tolist()) != case.loss(alike.tolist())


def test_integers_cost_no_check(case: Case) -> None:
    """Only the checks of values that there are anyway."""

    def num_operations(dtype: tf.DType) -> int:
        function = tf.function(case.loss, autograph=False)
        spec = tf.TensorSpec(np.shape(case.integers), dtype)
        graph = function.get_concrete_function(spec).graph
        return sum("must be integers, which" in str(op.node_def) for op in graph.get_operations())

    assert num_operations(tf.int64) == 0
    assert num_operations(tf.float32) > 0


@pytest.mark.parametrize("jit_compile", [False, True])
def test_labels_that_keras_hands_to_a_loss(jit_compile: bool) -> None:
    """Keras makes float32 of int64 on the way."""
    seen = []

    class SampledSoftmax(keras.losses.Loss):
        def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
            seen.append(y_true.dtype)
            return fastneg.sampled_softmax_loss(
                TABLE, None, y_true, y_pred, 2, 9, sampled_values=([3, 0], 0.3, [0.4, 0.4])
            )

    model = keras.Sequential([keras.layers.Identity()])
    model.compile(loss=SampledSoftmax(), jit_compile=jit_compile)
    labels = np.array([[8], [0], [3], [1]], np.int64)
    value = model.evaluate(EMB[0], labels, verbose=0)
    assert set(seen) == {tf.float32}
    np.testing.assert_allclose(value, np.mean(_sampled(labels, [3, 0])), rtol=1e-5)
