"""Bad arguments: what raises, where, and what it says."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from bad_input import assert_refused, assert_refused_when_run, specs_of

import fastneg

LOSS = fastneg.pairwise_loss
B = 8


def _ones(*shape: int, dtype: Any = np.float32) -> Any:
    return np.ones(shape, dtype)


GOOD: dict[str, Any] = {
    "labels": (np.arange(B) % 3).astype(np.float32),
    "logits": np.linspace(-1, 1, B).astype(np.float32),
}

# Changed arguments, and what the error says of them.
STATIC: dict[str, tuple[dict[str, Any], str]] = {
    "logits int": ({"logits": np.arange(B)}, r"`logits` must be float16, .* Received: int64\."),
    "logits text": ({"logits": ["a"] * B}, r"`logits` must be float16, .* Received: string\."),
    "logits None": ({"logits": None}, r"`logits` must be convertible to a tensor\. .*None"),
    "logits scalar": ({"logits": 1.0}, r"`logits` must have shape \[8\] or \[8, 1\]\. .*\[\]\."),
    "logits wide": ({"logits": _ones(B, 2)}, r"`logits` must have shape .* \[8, 2\]\."),
    "logits row": ({"logits": _ones(1, B)}, r"`logits` must have shape .* \[1, 8\]\."),
    "labels short": ({"labels": _ones(7)}, r"`labels` must have shape \[8\] or \[8, 1\]\. Rec"),
    "labels rank": ({"labels": _ones(B, 1, 1)}, r"`labels` must have shape .* \[8, 1, 1\]\."),
    "labels text": ({"labels": ["a"] * B}, r"`labels` must be bool, integer or floating"),
    "labels complex": ({"labels": _ones(B, dtype=np.complex64)}, r"`labels` must be bool, integer"),
    "session_ids short": ({"session_ids": np.arange(7)}, r"`session_ids` must have shape \[8\] or"),
    "session_ids long": ({"session_ids": np.arange(9)}, r"`session_ids` must have .*: \[9\]\."),
    "session_ids float": (
        {"session_ids": 1.5 * _ones(B)},
        r"`session_ids` must be integers, .*1\.5",
    ),
    "weights short": ({"weights": _ones(7)}, r"`weights` must have shape \[8\] or \[8, 1\]\. Rec"),
    "weights wide": ({"weights": _ones(B, 2)}, r"`weights` must have shape .* \[8, 2\]\."),
    "weights text": ({"weights": "heavy"}, r"`weights` must be a real number"),
    "weights nan": ({"weights": np.nan}, r"`weights` must be a finite number\. Received: nan\."),
    "weights None": ({"weights": None}, r"`weights` must be convertible to a tensor. .*None"),
    "temperature 0": ({"temperature": 0}, r"`temperature` must not be 0\. Received: 0\.0\."),
    "temperature tiny": ({"temperature": 1e-60}, r"`temperature` must not be 0\. Rec.* 1e-60\."),
    **{
        f"{name} {value}": ({name: value}, rf"`{name}` must be a finite number\. Received: {value}")
        for name in ("margin", "temperature")
        for value in (float("nan"), float("inf"), float("-inf"))
    },
    **{
        f"{name} vector": ({name: _ones(2)}, rf"`{name}` must be a scalar\. Received: \[2\]\.")
        for name in ("margin", "temperature")
    },
    "margin text": ({"margin": "big"}, r"`margin` must be a real number\. Received: string\."),
    "temperature None": ({"temperature": None}, r"`temperature` must be convertible to a tensor"),
}

# Changed arguments that only run-time shapes or values betray.
DYNAMIC = {
    "labels short": ({"labels": _ones(7)}, r"`labels` must have shape \["),
    "session_ids short": ({"session_ids": np.arange(7)}, r"`session_ids` must have shape \["),
    "weights short": ({"weights": _ones(7)}, r"`weights` must have shape \["),
    "temperature 0": ({"temperature": np.float32(0)}, r"`temperature` must not be 0\."),
    "temperature -0": ({"temperature": np.float32(-0.0)}, r"`temperature` must not be 0\."),
}
DYNAMIC_RANK = {
    "logits scalar": ({"logits": np.float32(1)}, r"`logits` must have shape \["),
    "logits wide": ({"logits": _ones(B, 2)}, r"`logits` must have shape \["),
    "logits row": ({"logits": _ones(1, B)}, r"`logits` must have shape \["),
    "labels rank": ({"labels": _ones(B, 1, 1)}, r"`labels` must have shape \["),
    "weights rank": ({"weights": _ones(1, B)}, r"`weights` must have shape \["),
    "session_ids scalar": ({"session_ids": np.int64(3)}, r"`session_ids` must have shape \["),
    "margin rank": ({"margin": _ones(2)}, r"`margin` must be a scalar\."),
    "temperature rank": ({"temperature": _ones(1)}, r"`temperature` must be a scalar\."),
    "temperature empty": ({"temperature": _ones(0)}, r"`temperature` must be a scalar\."),
}
FULL = GOOD | {
    "session_ids": np.arange(B) // 4,
    "weights": _ones(B),
    "margin": np.array(0.1, np.float32),
    "temperature": np.array(0.5, np.float32),
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


@pytest.mark.parametrize("mode", ["eager", "graph", "gradient"])
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_temperature_tensor_that_is_0(backend: str, dtype: tf.DType, mode: str) -> None:
    def loss(temperature: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(temperature)
            value = LOSS(GOOD["labels"], tf.cast(GOOD["logits"], dtype), temperature=temperature)
        return tape.gradient(value, temperature) if mode == "gradient" else value

    function = loss if mode == "eager" else tf.function(loss, autograph=False)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"`temperature` must not be 0\."):
        function(tf.constant(0, dtype))


def test_the_composition_cannot_raise_in_xla_so_the_loss_is_nan(reference: str) -> None:
    @tf.function(jit_compile=True, autograph=False)
    def loss(temperature: tf.Tensor) -> tf.Tensor:
        return LOSS(**GOOD, temperature=temperature)

    assert np.isnan(loss(tf.constant(0.0)))
    assert np.isfinite(loss(tf.constant(0.5)))


def test_eager_shapes_that_differ(backend: str) -> None:
    """Eager tensors have static shapes, whatever function they come from."""
    with pytest.raises(ValueError, match=r"`labels` must have shape \[8\]"):
        LOSS(tf.ones([9]), tf.ones([8]))
