"""Bad input of negative_cosine_loss is refused on every backend; what special values do."""

import pathlib
from typing import Any

import numpy as np
import pytest
import shuffled_problems
import tensorflow as tf
from shuffled_problems import LOSS

import fastneg

B, D = 8, 4
IDENTITY = np.tile(np.arange(B), (2, 1))


def _ones(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


GOOD = {"query": _ones(B, D), "doc": _ones(B, D)}


def _with_entry(value: int) -> np.ndarray:
    changed = IDENTITY.copy()
    changed[1, 3] = value
    return changed


STATIC = {
    "query rank": ({"query": _ones(B)}, r"`query` must have rank 2.* Received: \[8\]\."),
    "doc rows": ({"doc": _ones(7, D)}, r"`doc` must have the shape of `query`, .* \[7, 4\]\."),
    "dtypes differ": ({"doc": _ones(B, D, dtype=np.float64)}, r"`doc` must have the dtype of"),
    "integers": ({"query": _ones(B, D, dtype=np.int32)}, r"`query` must be float16, bfloat16"),
    "K 0": ({"num_negatives": 0}, r"`num_negatives` must be at least 1\. Received: 0\."),
    "K float": ({"num_negatives": 2.0}, r"`num_negatives` must be a Python integer"),
    "t 0": ({"t": 0}, r"`t` must not be 0\. Received: 0"),
    "t nan": ({"t": np.nan}, r"`t` must be a finite number\. Received: nan\."),
    "t vector": ({"t": _ones(2)}, r"`t` must be a scalar\. Received: \[2\]\."),
    "scale inf": ({"scale": np.inf}, r"`scale` must be a finite number\. Received: inf\."),
    "scale text": ({"scale": "large"}, r"`scale` must be a real number"),
    "normalize": ({"normalize": "rows"}, r'`normalize` must be "candidates" or "batch"\. .*rows'),
    "permutations rank": ({"permutations": np.arange(B)}, r"`permutations` must have shape \[num_"),
    "permutations columns": (
        {"permutations": IDENTITY[:, :7]},
        r"`permutations` must have shape \[num_negatives, 8\]\. Received: \[2, 7\]\.",
    ),
    "permutations bool": ({"permutations": _ones(2, B) > 0}, r"`permutations` must be integers"),
    "permutations uint64": ({"permutations": IDENTITY.astype(np.uint64)}, r"signed if 64"),
    "no permutation": ({"permutations": IDENTITY[:0]}, r"`num_negatives` must be at least 1"),
    "probability short": (
        {"candidate_sampling_probability": _ones(7)},
        r"`candidate_sampling_probability` must have shape \[8\]\. Received: \[7\]\.",
    ),
    "ids bool": ({"candidate_ids": _ones(B) > 0}, r"`candidate_ids` must be integers"),
    "ids short": ({"candidate_ids": np.arange(7)}, r"`candidate_ids` must have shape \[8\]"),
    "batch with ids": (
        {"normalize": "batch", "candidate_ids": np.arange(B)},
        r'`candidate_ids` must be None with normalize="batch"',
    ),
    "batch with probability": (
        {"normalize": "batch", "candidate_sampling_probability": _ones(B)},
        r"`candidate_sampling_probability` must be None",
    ),
}

VALUES = {
    "repeated": (_with_entry(0), r"`permutations` must hold each .* once in every row"),
    "negative": (_with_entry(-1), r"`permutations` must hold each"),
    "too large": (_with_entry(B), r"`permutations` must hold each"),
    "huge": (_with_entry(2**40 + 3), r"`permutations` must hold each"),
    "smallest": (_with_entry(-(2**63)), r"`permutations` must hold each"),
}


@pytest.mark.parametrize("case", STATIC)
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_what_static_shapes_tell(backend: str, case: str, mode: str) -> None:
    changes, message = STATIC[case]
    arguments = {**GOOD, **changes}
    call = LOSS
    if mode == "graph":
        call = tf.function(LOSS, autograph=False)
    with pytest.raises(ValueError, match=message):
        call(**arguments)
    assert np.isfinite(LOSS(**GOOD))


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("case", VALUES)
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_broken_permutations(backend: str, case: str, mode: str) -> None:
    permutations, message = VALUES[case]
    call = tf.function(LOSS, autograph=False) if mode == "graph" else LOSS
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        call(**GOOD, permutations=permutations)
    assert np.isfinite(call(**GOOD, permutations=IDENTITY))


@pytest.mark.parametrize("case", VALUES)
def test_broken_permutations_in_the_composition_in_xla(reference: str, case: str) -> None:
    compiled = tf.function(LOSS, jit_compile=True, autograph=False)
    assert np.isnan(compiled(**GOOD, permutations=VALUES[case][0]))
    assert np.isfinite(compiled(**GOOD, permutations=IDENTITY))


UNKNOWN = {
    "doc rows": ({"doc": _ones(7, D)}, r"`doc` must have the shape of `query`"),
    "doc width": ({"doc": _ones(B, 5)}, r"`doc` must have the shape of `query`"),
    "query rank": ({"query": _ones(B)}, r"`query` must have rank 2"),
    "columns": ({"permutations": IDENTITY[:, :7]}, r"`permutations` must have shape \[num_neg"),
    "no permutation": ({"permutations": IDENTITY[:0]}, r"`num_negatives` must be at least 1"),
    "t 0": ({"t": np.float32(0)}, r"`t` must not be 0"),
    "ids": ({"candidate_ids": np.arange(7)}, r"`candidate_ids` must have shape"),
    "probability": (
        {"candidate_sampling_probability": _ones(9)},
        r"`candidate_sampling_probability` must have shape",
    ),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_what_only_run_time_tells(backend: str, case: str) -> None:
    good = {
        **GOOD,
        "permutations": IDENTITY,
        "t": np.float32(1),
        "candidate_ids": np.arange(B),
        "candidate_sampling_probability": _ones(B),
    }
    specs = {
        name: tf.TensorSpec(None, tf.as_dtype(np.asarray(value).dtype))
        for name, value in good.items()
    }
    function = tf.function(LOSS, autograph=False).get_concrete_function(**specs)

    def call(**arguments: Any) -> Any:
        return function(**{name: tf.constant(value) for name, value in arguments.items()})

    changes, message = UNKNOWN[case]
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        call(**{**good, **changes})
    assert np.isfinite(call(**good))


def test_empty_batch(backend: str) -> None:
    query = tf.Variable(tf.zeros([0, D]))
    for normalize in ("candidates", "batch"):
        with tf.GradientTape() as tape:
            loss = LOSS(query, tf.zeros([0, D]), normalize=normalize)
        assert loss == 0
        assert tape.gradient(loss, query).shape == [0, D]


def test_batch_of_one_has_only_itself(backend: str) -> None:
    """K copies of the positive: logsumexp of K + 1 equal logits, less one of them."""
    loss = LOSS(_ones(1, D), _ones(1, D), num_negatives=3)
    np.testing.assert_allclose(loss, np.log(4), rtol=1e-6)
    removed = LOSS(_ones(1, D), _ones(1, D), num_negatives=3, candidate_ids=[7])
    assert removed == 0


@pytest.mark.parametrize("normalize", ["candidates", "batch"])
def test_zero_vector_has_cosine_0_and_finite_gradients(backend: str, normalize: str) -> None:
    query, doc = tf.Variable(tf.zeros([B, D])), tf.Variable(_ones(B, D))
    with tf.GradientTape() as tape:
        loss = LOSS(query, doc, 4, normalize=normalize)
    expected = np.log(5) if normalize == "candidates" else np.log(B)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    for grad in tape.gradient(loss, [query, doc]):
        assert np.all(np.isfinite(grad))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("which", ["query", "doc"])
def test_what_is_not_finite_is_not_hidden(backend: str, which: str, value: float) -> None:
    arguments = {name: array.copy() for name, array in GOOD.items()}
    arguments[which][3, 1] = value
    assert not np.isfinite(LOSS(**arguments, permutations=IDENTITY))


class _Model(tf.Module):
    @tf.function(
        autograph=False,
        input_signature=[
            tf.TensorSpec([None, None]),
            tf.TensorSpec([None, None]),
            tf.TensorSpec([None, None], tf.int32),
        ],
    )
    def __call__(self, query: tf.Tensor, doc: tf.Tensor, permutations: tf.Tensor) -> tf.Tensor:
        return LOSS(query, doc, permutations=permutations)


@pytest.mark.usefixtures("on_cpu")
def test_saved_model(tmp_path: pathlib.Path) -> None:
    try:
        choice = fastneg.use_backend("native")
    except fastneg.BackendUnavailableError as error:
        pytest.skip(str(error))
    problem = shuffled_problems.make(16, 3, 6)
    permutations = tf.constant(problem.permutations, tf.int32)
    with choice:
        tf.saved_model.save(_Model(), str(tmp_path))
        expected = LOSS(problem.query, problem.doc, permutations=permutations)
    model = tf.saved_model.load(str(tmp_path))
    query, doc = tf.constant(problem.query), tf.constant(problem.doc)
    assert model(query, doc, permutations) == expected
    for bad, message in (
        ((query, doc[:15], permutations), "must have the shape of `query`"),
        ((query, doc, permutations[:, :15]), r"must have shape \[num_negatives, 16\]"),
        ((query, doc, permutations[:0]), "must be at least 1"),
        ((query, doc, permutations + 1), r"once in every row\. Received: permutations\[0, "),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            model(*bad)
    assert model(query, doc, permutations) == expected
