"""Bad input is refused on every backend, with the requirement and what was received."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from bad_input import assert_refused, assert_refused_when_run, specs_of

import fastneg

LOSS = fastneg.softmax_loss_with_negative_mining
B, D = 8, 4


def _ones(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


GOOD = {"user_emb": _ones(B, D), "item_emb": _ones(B, D), "labels": _ones(B)}

# Changed arguments, and the message as a regular expression. Nothing here needs a value.
STATIC = {
    "user rank": ({"user_emb": _ones(B)}, r"`user_emb` must have rank 2.* Received: \[8\]\."),
    "user rank 3": ({"user_emb": _ones(B, D, 1)}, r"`user_emb` must have rank 2"),
    "item rank": ({"item_emb": _ones(B)}, r"`item_emb` must have rank 2"),
    "item rows": (
        {"item_emb": _ones(B - 1, D)},
        r"`item_emb` must have the shape of `user_emb`, \[8, 4\]\. Received: \[7, 4\]\.",
    ),
    "item width": ({"item_emb": _ones(B, D + 1)}, r"`item_emb` must have the shape of"),
    "dtypes differ": (
        {"item_emb": _ones(B, D, dtype=np.float64)},
        r"`item_emb` must have the dtype of `user_emb`, float32\. Received: float64\.",
    ),
    "integer embeddings": (
        {"user_emb": _ones(B, D, dtype=np.int32), "item_emb": _ones(B, D, dtype=np.int32)},
        r"`user_emb` must be float16, bfloat16, float32 or float64\. Received: int32\.",
    ),
    "complex embeddings": ({"user_emb": _ones(B, D, dtype=np.complex64)}, r"`user_emb` must be"),
    "not a tensor": ({"user_emb": object()}, r"`user_emb` must be convertible to a tensor"),
    "batch 1": (
        {"user_emb": _ones(1, D), "item_emb": _ones(1, D), "labels": _ones(1)},
        r"`num_negative_samples` must be at least 1 and less than the batch size, 1\. Received: 4",
    ),
    "K 0": ({"num_negative_samples": 0}, r"`num_negative_samples` must be .* Received: 0\."),
    "K negative": ({"num_negative_samples": -2}, r"`num_negative_samples` must be at least 1"),
    "K = B": ({"num_negative_samples": 8}, r"less than the batch size, 8\. Received: 8\."),
    "K > B": ({"num_negative_samples": 9}, r"less than the batch size, 8\. Received: 9\."),
    "K float": ({"num_negative_samples": 2.0}, r"must be a Python integer\. Received: 2\.0\."),
    "K bool": ({"num_negative_samples": True}, r"must be a Python integer\. Received: True\."),
    "labels short": (
        {"labels": _ones(7)},
        r"`labels` must have shape \[8\] or \[8, 1\]\. Rec.*\[7\]",
    ),
    "labels scalar": ({"labels": np.float32(1)}, r"`labels` must have shape .* Received: \[\]\."),
    "labels wide": ({"labels": _ones(B, 2)}, r"`labels` must have shape .* Received: \[8, 2\]\."),
    "labels text": ({"labels": ["a"] * B}, r"`labels` must be bool, integer or floating point"),
    "weights short": ({"weights": _ones(7)}, r"`weights` must have shape \[8\] or \[8, 1\]\. Rec"),
    "weights wide": ({"weights": _ones(B, 2)}, r"`weights` must have shape .* \[8, 2\]\."),
    "weights row": ({"weights": _ones(1, B)}, r"`weights` must have shape .* \[1, 8\]\."),
    "weights text": ({"weights": "heavy"}, r"`weights` must be a real number"),
    "weights nan": ({"weights": np.nan}, r"`weights` must be a finite number\. Received: nan\."),
    "weights None": ({"weights": None}, r"`weights` must be convertible to a tensor. .*None"),
    "shifts scalar": ({"shifts": 3}, r"`shifts` must have rank 1, \[num_negatives\]\. Rec.*\[\]\."),
    "shifts rank": ({"shifts": [[1, 2]]}, r"`shifts` must have rank 1, .* Received: \[1, 2\]\."),
    "shifts float": ({"shifts": [1.0, 2.5]}, r"`shifts` must be integers, .* Received: 2\.5\."),
    "shifts NumPy float": ({"shifts": 1.5 * _ones(2)}, r"`shifts` must be integers, .* 1\.5\."),
    "shifts bool": ({"shifts": np.array([True])}, r"`shifts` must be integers .* Received: bool\."),
    "shifts uint64": ({"shifts": _ones(2, dtype=np.uint64)}, r"`shifts` must be integers"),
    "shifts empty": ({"shifts": _ones(0, dtype=np.int64)}, r"must be at least 1 .* Received: 0\."),
    "shifts many": ({"shifts": np.arange(1, 9)}, r"less than the batch size, 8\. Received: 8\."),
    "probability short": (
        {"candidate_sampling_probability": _ones(7)},
        r"`candidate_sampling_probability` must have shape \[8\]\. Received: \[7\]\.",
    ),
    "probability number": (
        {"candidate_sampling_probability": 0.5},
        r"`candidate_sampling_probability` must have shape \[8\]\. Received: \[\]\.",
    ),
    "ids short": ({"candidate_ids": np.arange(7)}, r"`candidate_ids` must have shape \[8\]\. Rec"),
    "ids float": ({"candidate_ids": 1.5 * _ones(B)}, r"`candidate_ids` must be integers, .* 1\.5"),
    "ids bool": ({"candidate_ids": _ones(B) > 0}, r"`candidate_ids` must be integers\. .* bool\."),
    **{
        f"{name} {value}": ({name: value}, rf"`{name}` must be a finite number\. Received: {value}")
        for name in ("gamma", "margin", "t")
        for value in (float("nan"), float("inf"), float("-inf"))
    },
    **{
        f"{name} vector": ({name: _ones(2)}, rf"`{name}` must be a scalar\. Received: \[2\]\.")
        for name in ("gamma", "margin", "t")
    },
    "gamma text": ({"gamma": "big"}, r"`gamma` must be a real number\. Received: string\."),
    "gamma enormous": ({"gamma": 10**400}, r"`gamma` must be a finite number"),
}

# Changed arguments that only run-time shapes or values betray.
DYNAMIC = {
    "item rows": ({"item_emb": _ones(B - 1, D)}, r"`item_emb` must have the shape of `user_emb`,"),
    "item width": ({"item_emb": _ones(B, D + 1)}, r"`item_emb` must have the shape of `user_emb`,"),
    "labels short": ({"labels": _ones(7)}, r"`labels` must have shape \["),
    "weights short": ({"weights": _ones(7)}, r"`weights` must have shape \["),
    "probability short": (
        {"candidate_sampling_probability": _ones(7)},
        r"`candidate_sampling_probability` must have shape \[",
    ),
    "ids short": ({"candidate_ids": np.arange(7)}, r"`candidate_ids` must have shape \["),
    "shifts many": ({"shifts": np.arange(1, 9)}, r"`num_negative_samples` must be at least 1"),
    "shifts none": ({"shifts": np.arange(0)}, r"`num_negative_samples` must be at least 1"),
    "batch 1": (
        {name: _ones(1, *value.shape[1:]) for name, value in GOOD.items()}
        | {"weights": _ones(1), "candidate_ids": np.arange(1)}
        | {"candidate_sampling_probability": _ones(1)},
        r"`num_negative_samples` must be at least 1 and less than the batch size",
    ),
}
DYNAMIC_RANK = {
    "user rank": ({"user_emb": _ones(B)}, r"`user_emb` must have rank 2, \["),
    "item rank": ({"item_emb": _ones(B, D, 1)}, r"`item_emb` must have the shape of `user_emb`,"),
    "labels rank": ({"labels": _ones(B, 1, 1)}, r"`labels` must have shape \["),
    "weights rank": ({"weights": _ones(1, B)}, r"`weights` must have shape \["),
    "shifts rank": ({"shifts": [[1, 2]]}, r"`shifts` must have rank 1, \[num_negatives\]\."),
    "gamma rank": ({"gamma": _ones(1)}, r"`gamma` must be a scalar\."),
    "margin rank": ({"margin": _ones(2)}, r"`margin` must be a scalar\."),
    "t rank": ({"t": _ones(0)}, r"`t` must be a scalar\."),
}
FULL = GOOD | {
    "weights": _ones(B),
    "candidate_sampling_probability": _ones(B),
    "candidate_ids": np.arange(B),
    "shifts": np.array([1, 2]),
    "gamma": np.array(2, np.float32),
    "margin": np.array(0, np.float32),
    "t": np.array(1, np.float32),
}


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("case", STATIC)
def test_static(backend: str, case: str, mode: str) -> None:
    changes, message = STATIC[case]
    assert_refused(LOSS, {**GOOD, **changes}, message, mode)


@pytest.mark.parametrize("rank", ["known", "unknown"])
def test_dynamic(backend: str, rank: str) -> None:
    """One traced function, to which bad arguments come only when it runs."""
    cases = DYNAMIC | (DYNAMIC_RANK if rank == "unknown" else {})
    result = assert_refused_when_run(
        lambda **arguments: LOSS(**arguments), specs_of(FULL, rank), FULL, cases
    )
    np.testing.assert_allclose(result, LOSS(**FULL), rtol=1e-6)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("mode", ["eager", "graph", "gradient"])
@pytest.mark.parametrize(
    "shifts", [[0], [1, 16], [1, 2, -8], [np.iinfo(np.int64).min, 1], np.array([8], np.int8)]
)
def test_shift_that_is_zero_modulo_the_batch(backend: str, shifts: Any, mode: str) -> None:
    def loss(user_emb: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(user_emb)
            value = LOSS(**{**GOOD, "user_emb": user_emb}, shifts=shifts)
        return tape.gradient(value, user_emb) if mode == "gradient" else value

    function = loss if mode == "eager" else tf.function(loss, autograph=False)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"`shifts` must not be 0 modulo the batch size"
    ):
        function(tf.constant(GOOD["user_emb"]))


def test_the_composition_cannot_raise_in_xla_so_the_loss_is_nan(reference: str) -> None:
    @tf.function(jit_compile=True, autograph=False)
    def loss(shifts: tf.Tensor) -> tf.Tensor:
        return LOSS(**GOOD, shifts=shifts)

    assert np.isnan(loss(tf.constant([1, 8])))
    assert np.isfinite(loss(tf.constant([1, 7])))


def test_batch_size_known_from_labels_only(backend: str) -> None:
    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, D])] * 2)
    def loss(user_emb: tf.Tensor, item_emb: tf.Tensor) -> tf.Tensor:
        return LOSS(user_emb, item_emb, tf.ones([3]))

    with pytest.raises(ValueError, match=r"less than the batch size, 3\. Received: 4\."):
        loss(tf.ones([3, D]), tf.ones([3, D]))
