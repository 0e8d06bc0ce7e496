"""Bad input is refused on every backend, with the requirement and what was received."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from bad_input import assert_refused, assert_refused_when_run, specs_of

import fastneg

LOSS = fastneg.support_vector_guided_softmax_loss
P, K = 8, 4


def _ones(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


GOOD = {"pos_score": _ones(P), "neg_scores": _ones(P, K)}
_NAMES = ("smooth", "margin", "t", "threshold")

# Changed arguments, and the message as a regular expression. Nothing here needs a value.
STATIC = {
    "negatives rank 1": (
        {"neg_scores": _ones(P)},
        r"`neg_scores` must have rank 2, \[num_rows, num_negatives\]\. Received: \[8\]\.",
    ),
    "negatives rank 3": ({"neg_scores": _ones(P, K, 1)}, r"`neg_scores` must have rank 2"),
    "negatives rows": (
        {"neg_scores": _ones(P - 1, K)},
        r"`pos_score` must have shape \[7\] or \[7, 1\]\. Received: \[8\]\.",
    ),
    "positive scalar": ({"pos_score": 1.0}, r"`pos_score` must have shape .* Received: \[\]\."),
    "positive wide": ({"pos_score": _ones(P, 2)}, r"`pos_score` must have shape .*\[8, 2\]\."),
    "positive row": ({"pos_score": _ones(1, P)}, r"`pos_score` must have shape .*\[1, 8\]\."),
    "dtypes differ": (
        {"pos_score": _ones(P, dtype=np.float64)},
        r"`pos_score` must have the dtype of `neg_scores`, float32\. Received: float64\.",
    ),
    "integer scores": (
        {"neg_scores": _ones(P, K, dtype=np.int32), "pos_score": _ones(P, dtype=np.int32)},
        r"`pos_score` must be float16, bfloat16, float32 or float64\. Received: int32\.",
    ),
    "complex scores": ({"neg_scores": _ones(P, K, dtype=np.complex64)}, r"`neg_scores` must be"),
    "not a tensor": ({"neg_scores": object()}, r"`neg_scores` must be convertible to a tensor"),
    "weights short": ({"weights": _ones(7)}, r"`weights` must have shape \[8\] or \[8, 1\]\. Rec"),
    "weights wide": ({"weights": _ones(P, 2)}, r"`weights` must have shape .* \[8, 2\]\."),
    "weights text": ({"weights": "heavy"}, r"`weights` must be a real number"),
    "weights nan": ({"weights": np.nan}, r"`weights` must be a finite number\. Received: nan\."),
    "weights None": ({"weights": None}, r"`weights` must be convertible to a tensor. .*None"),
    **{
        f"{name} {value}": ({name: value}, rf"`{name}` must be a finite number\. Received: {value}")
        for name in _NAMES
        for value in (float("nan"), float("inf"), float("-inf"))
    },
    **{
        f"{name} vector": ({name: _ones(2)}, rf"`{name}` must be a scalar\. Received: \[2\]\.")
        for name in _NAMES
    },
    "smooth text": ({"smooth": "big"}, r"`smooth` must be a real number\. Received: string\."),
    "smooth enormous": ({"smooth": 10**400}, r"`smooth` must be a finite number"),
}

# Changed arguments that only run-time shapes betray.
DYNAMIC = {
    "positives short": ({"pos_score": _ones(7)}, r"`pos_score` must have shape \["),
    "negatives short": ({"neg_scores": _ones(7, K)}, r"`pos_score` must have shape \["),
    "weights short": ({"weights": _ones(7)}, r"`weights` must have shape \["),
    "one positive": ({"pos_score": _ones(1)}, r"`pos_score` must have shape \["),
    "no positive": ({"pos_score": _ones(0)}, r"`pos_score` must have shape \["),
}
DYNAMIC_RANK = {
    "negatives rank": ({"neg_scores": _ones(P)}, r"`neg_scores` must have rank 2"),
    "negatives scalar": ({"neg_scores": _ones()}, r"`neg_scores` must have rank 2"),
    "positives rank": ({"pos_score": _ones(P, 1, 1)}, r"`pos_score` must have shape \["),
    "positives row": ({"pos_score": _ones(1, P)}, r"`pos_score` must have shape \["),
    "weights rank": ({"weights": _ones(P, 1, 1)}, r"`weights` must have shape \["),
    "smooth rank": ({"smooth": _ones(1)}, r"`smooth` must be a scalar\."),
    "margin rank": ({"margin": _ones(2)}, r"`margin` must be a scalar\."),
    "t rank": ({"t": _ones(0)}, r"`t` must be a scalar\."),
    "threshold rank": ({"threshold": _ones(3)}, r"`threshold` must be a scalar\."),
}
FULL = GOOD | {"weights": _ones(P)} | {name: np.array(1, np.float32) for name in _NAMES}


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("case", STATIC)
def test_static(backend: str, case: str, mode: str) -> None:
    changes, message = STATIC[case]
    assert_refused(LOSS, {**GOOD, **changes}, message, mode)


@pytest.mark.parametrize("with_grad", [False, True], ids=["loss", "gradients"])
@pytest.mark.parametrize("rank", ["known", "unknown"])
def test_dynamic(backend: str, rank: str, with_grad: bool) -> None:
    """One traced function, to which bad arguments come only when it runs."""

    def compute(**arguments: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(arguments["neg_scores"])
            value = LOSS(**arguments)
        return (value, tape.gradient(value, arguments["neg_scores"])) if with_grad else value

    cases = DYNAMIC | (DYNAMIC_RANK if rank == "unknown" else {})
    result = assert_refused_when_run(compute, specs_of(FULL, rank), FULL, cases)
    np.testing.assert_allclose(result[0] if with_grad else result, LOSS(**FULL), rtol=1e-6)
