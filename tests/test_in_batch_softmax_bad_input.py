"""Bad arguments of the in-batch softmax loss are refused, with the requirement in words."""

from typing import Any

import bad_input
import numpy as np
import pytest
import tensorflow as tf
from in_batch_problems import LOSS

import fastneg

B, C, D = 4, 6, 3
GOOD: dict[str, Any] = {
    "query_embeddings": np.ones((B, D), np.float32),
    "candidate_embeddings": np.ones((C, D), np.float32),
}
ONES = np.ones(C, np.float32)
STATIC: bad_input.Cases = {
    "ints": ({"query_embeddings": np.ones((B, D), int)}, "`query_embeddings` must be float16"),
    "rank": ({"query_embeddings": np.ones(B)}, r"`query_embeddings` must have rank 2.*\[4\]"),
    "dtype": (
        {"candidate_embeddings": np.ones((C, D))},
        "dtype of `query_embeddings`, float32. Received: float64",
    ),
    "width": (
        {"candidate_embeddings": np.ones((C, 2), np.float32)},
        r"width of `query_embeddings`, 3. Received: \[6, 2\]",
    ),
    "few candidates": (
        {"candidate_embeddings": np.ones((3, D), np.float32)},
        "as many rows as `query_embeddings`, 4, .*Received: 3",
    ),
    "no candidate": (
        {"candidate_embeddings": np.ones((0, D), np.float32), "positives": [0] * B},
        "at least one row",
    ),
    "positives": ({"positives": [0, 1, 2]}, r"`positives` must have shape \[4\].*\[3\]"),
    "float positives": ({"positives": [0.5, 1, 2, 3]}, "`positives` must be integers, "),
    "weights": ({"sample_weight": np.ones(3)}, r"`sample_weight` must have shape \[4\]"),
    "temperature": ({"temperature": 0}, "`temperature` must be positive. Received: 0"),
    "negative temperature": ({"temperature": -1.0}, "`temperature` must be positive"),
    "infinite temperature": ({"temperature": np.inf}, "`temperature` must be a finite number"),
    "temperatures": ({"temperature": tf.ones([2])}, "`temperature` must be a scalar"),
    "margin": ({"margin": np.nan}, "`margin` must be a finite number"),
    "smoothing that is text": ({"label_smoothing": "0.1"}, "`label_smoothing` must be a finite"),
    "trained smoothing": ({"label_smoothing": tf.Variable(0.1)}, "`label_smoothing` must be a fin"),
    "both ways twice": ({"bidirectional": 2}, "`bidirectional` must be True or False. Received: 2"),
    "bool weights": ({"sample_weight": [True] * B}, "`sample_weight` must be a real number"),
    "bool positives": ({"positives": [True] * B}, "`positives` must be integers. Received: bool"),
    "probabilities": (
        {"candidate_sampling_probability": np.ones(B)},
        r"`candidate_sampling_probability` must have shape \[6\].*\[4\]",
    ),
    "ids": ({"candidate_ids": np.arange(B)}, r"`candidate_ids` must have shape \[6\]"),
    "mask": ({"candidate_mask": np.ones(C)}, "`candidate_mask` must be bool"),
    "mask's shape": ({"candidate_mask": np.ones(B, bool)}, r"`candidate_mask` must have shape \[6"),
    "score mask": ({"score_mask": np.ones((B, C))}, "`score_mask` must be bool"),
    "score mask's shape": (
        {"score_mask": np.ones((C, B), bool)},
        r"`score_mask` must have shape \[4, 6\].*\(6, 4\)",
    ),
    "no hard negative": ({"num_hard_negatives": 0}, "`num_hard_negatives` must be at least 1"),
    "hard negatives": ({"num_hard_negatives": 1.5}, "`num_hard_negatives` must be a Python int"),
    "smoothing": ({"label_smoothing": 1.0}, r"`label_smoothing` must be in \[0, 1\). Received: 1"),
    "less smoothing": ({"label_smoothing": -0.1}, r"`label_smoothing` must be in \[0, 1\)"),
    "correction": ({"correction": "none"}, '`correction` must be one of "standard", "refined"'),
    "reduction": ({"reduction": None}, '`reduction` must be one of "mean", "sum", "none"'),
    "no probabilities": (
        {"correction": "refined"},
        "`candidate_sampling_probability` must be given",
    ),
    "negative weight": ({"negative_weight": 1.2}, "`negative_weight` must be 1 where"),
    "smoothing alone": (
        {"positive_in_softmax": False, "label_smoothing": 0.1},
        "`label_smoothing` must be 0 where",
    ),
    "positives both ways": (
        {"bidirectional": True, "positives": [0, 1, 2, 3]},
        "`positives` must be None where `bidirectional`",
    ),
    "hard both ways": (
        {"bidirectional": True, "num_hard_negatives": 3},
        "`num_hard_negatives` must be None where `bidirectional`",
    ),
    "refined both ways": (
        {
            "bidirectional": True,
            "correction": "refined",
            "candidate_sampling_probability": ONES,
        },
        '`correction` must be "standard" where `bidirectional`',
    ),
}
DYNAMIC: bad_input.Cases = {
    "few candidates": (
        {"candidate_embeddings": np.ones((3, D)), "positives": [0] * B},
        r"must have shape|must have the shape|`candidate_ids`",
    ),
    "width": ({"candidate_embeddings": np.ones((C, 2))}, "width of `query_embeddings`"),
    "weights": ({"sample_weight": np.ones(3)}, "`sample_weight` must have shape"),
    "positives": ({"positives": [0, 1, 6, 3]}, "`positives` must be at least 0 and less than"),
    "negative positives": ({"positives": [0, 1, -1, 3]}, "`positives` must be at least 0"),
    "few positives": ({"positives": [0, 1]}, "`positives` must have shape"),
    "probabilities": (
        {"candidate_sampling_probability": np.ones(B)},
        "`candidate_sampling_probability` must have shape",
    ),
    "ids": ({"candidate_ids": np.arange(B)}, "`candidate_ids` must have shape"),
    "mask": ({"candidate_mask": np.ones(B, bool)}, "`candidate_mask` must have shape"),
    "score mask": ({"score_mask": np.ones((C, B), bool)}, "`score_mask` must have shape"),
    "temperature": ({"temperature": 0.0}, "`temperature` must be positive"),
    "NaN": ({"temperature": np.nan}, "`temperature` must be positive"),
    "infinity": ({"temperature": np.inf}, "`temperature` must be positive"),
}


@pytest.fixture(params=("native", "reference"))
def backend(request: pytest.FixtureRequest) -> object:
    """Each backend that has the loss."""
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("case", STATIC)
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_what_is_wrong_as_it_stands(reference: str, case: str, mode: str) -> None:
    changes, message = STATIC[case]
    bad_input.assert_refused(LOSS, {**GOOD, **changes}, message, mode)


@pytest.mark.parametrize("rank", ["known", "unknown"])
def test_what_is_wrong_when_it_runs(backend: str, on_cpu: None, rank: str) -> None:
    good = {
        **GOOD,
        "positives": np.arange(B),
        "sample_weight": np.ones(B, np.float32),
        "temperature": np.float32(1),
        "candidate_sampling_probability": ONES,
        "candidate_ids": np.arange(C),
        "candidate_mask": np.ones(C, bool),
        "score_mask": np.ones((B, C), bool),
    }
    loss = bad_input.assert_refused_when_run(LOSS, bad_input.specs_of(good, rank), good, DYNAMIC)
    np.testing.assert_allclose(loss, np.log(6), rtol=1e-6)


@pytest.mark.parametrize("rank", ["known", "unknown"])
def test_too_few_candidates_when_it_runs(backend: str, on_cpu: None, rank: str) -> None:
    cases: bad_input.Cases = {
        "few": ({"candidate_embeddings": np.ones((3, D))}, "as many rows as `query_embeddings`")
    }
    loss = bad_input.assert_refused_when_run(LOSS, bad_input.specs_of(GOOD, rank), GOOD, cases)
    np.testing.assert_allclose(loss, np.log(6), rtol=1e-6)


def test_eager_values(backend: str, on_cpu: None) -> None:
    for changes, message in (
        ({"positives": [0, 1, 6, 3]}, "`positives` must be at least 0 and less than"),
        ({"temperature": tf.constant(-1.0)}, "`temperature` must be positive and finite"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            LOSS(**{**GOOD, **changes})


def test_xla_makes_nan_of_bad_values(reference: str) -> None:
    compiled = tf.function(LOSS, jit_compile=True, autograph=False)
    query, candidate = (tf.constant(value) for value in GOOD.values())
    for bad in ({"positives": tf.constant([0, 1, 6, 3])}, {"temperature": tf.constant(0.0)}):
        assert np.isnan(compiled(query, candidate, **bad))


def test_numba_has_no_such_loss() -> None:
    try:
        choice = fastneg.use_backend("numba")
    except fastneg.BackendUnavailableError as error:
        pytest.skip(str(error))
    with choice, pytest.raises(fastneg.BackendUnavailableError, match=r"in_batch_softmax.*numba"):
        LOSS(**GOOD)
