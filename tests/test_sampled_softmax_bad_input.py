"""Bad input is refused on every backend, with the requirement and what was received."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from bad_input import assert_refused, assert_refused_when_run, specs_of

import fastneg

LOSS = fastneg.sampled_softmax_loss
B, D, V, S = 6, 4, 10, 3


def _ones(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


def _samples(**changes: Any) -> tuple[Any, Any, Any]:
    values = {"sampled": np.arange(S), "true": _ones(B, 1), "counts": _ones(S)}
    return tuple((values | changes).values())


GOOD = {
    "weights": _ones(V, D),
    "biases": _ones(V),
    "labels": np.zeros([B, 1], np.int64),
    "inputs": _ones(B, D),
    "num_sampled": S,
    "num_classes": V,
    "sampled_values": _samples(),
}

# Changed arguments, and the message as a regular expression. Nothing here needs a value.
STATIC = {
    "weights rank": (
        {"weights": _ones(V)},
        r"`weights` must have shape \[num_classes, .*\[10\]",
    ),
    "weights rows": ({"weights": _ones(V - 1, D)}, r"`weights` must have shape .* \[10, 4\]\. Rec"),
    "weights width": ({"weights": _ones(V, D + 1)}, r"`weights` must have shape .* \[10, 5\]\."),
    "weights integer": (
        {"weights": _ones(V, D, dtype=np.int32)},
        r"`weights` must be float16, bfloat16, float32 or float64.* Received: int32\.",
    ),
    "weights not a tensor": ({"weights": object()}, r"`weights` must be convertible to a tensor"),
    "no shards": ({"weights": []}, r"`weights` must have at least one shard"),
    "shards uneven": (
        {"weights": [_ones(4, D), _ones(6, D)]},
        r"`weights` must have `num_classes`, 10, rows, .*\[5, 5\] rows\. Received: \[4, 6\]\.",
    ),
    "shards short": (
        {"weights": [_ones(5, D)] * 3},
        r"`weights` must have `num_classes`, 10, rows",
    ),
    "shards of two dtypes": (
        {"weights": [_ones(5, D), _ones(5, D, dtype=np.float64)]},
        r"`weights` must be float16, .* the same in all shards\. Received: float64\.",
    ),
    "num_classes": ({"num_classes": V + 1}, r"`weights` must have shape .* Received: \[10, 4\]\."),
    "num_classes 0": ({"num_classes": 0}, r"`num_classes` must be at least 1\. Received: 0\."),
    "num_classes float": ({"num_classes": 10.0}, r"`num_classes` must be a Python integer\. Rec"),
    "biases rank": ({"biases": _ones(V, 1)}, r"`biases` must have shape \[num_classes\], \[10\]\."),
    "biases short": ({"biases": _ones(V - 1)}, r"`biases` must have shape .* Received: \[9\]\."),
    "labels float": (
        {"labels": 0.5 * _ones(B, 1)},
        r"`labels` must be integers, .* Received: 0\.5",
    ),
    "labels wide": (
        {"labels": np.zeros([B, 2], np.int64)},
        r"`labels` must have shape \[batch_size, 1\] or \[batch_size\]\. Received: \[6, 2\]\.",
    ),
    "labels scalar": ({"labels": np.int64(1)}, r"`labels` must have shape .* Received: \[\]\."),
    "labels short": (
        {"labels": np.zeros([B - 1, 1], np.int64)},
        r"`labels` must have one row for each of the batch, 6\. Received: \[5, 1\]\.",
    ),
    "labels vector": (
        {"labels": np.zeros(B, np.int64), "num_true": 2},
        r"`labels` must have shape \[batch_size, 2\]\. Received: \[6\]\.",
    ),
    "inputs rank": ({"inputs": _ones(B)}, r"`inputs` must have rank 2, .* Received: \[6\]\."),
    "inputs integer": (
        {"inputs": _ones(B, D, dtype=np.int64)},
        r"`inputs` must be float.*int64",
    ),
    "num_true 0": ({"num_true": 0}, r"`num_true` must be at least 1\. Received: 0\."),
    "num_true bool": ({"num_true": True}, r"`num_true` must be a Python integer\. Received: True"),
    "num_sampled 0": ({"num_sampled": 0}, r"`num_sampled` must be at least 1\. Received: 0\."),
    "num_sampled negative": ({"num_sampled": -1}, r"`num_sampled` must be at least 1\. Received"),
    "num_sampled float": ({"num_sampled": 3.0}, r"`num_sampled` must be a Python integer\. Rec"),
    "num_sampled > V": (
        {"num_sampled": V + 1, "sampled_values": None},
        r"`num_sampled` must be at most `num_classes`, 10: .* Received: 11\.",
    ),
    "samples not a tuple": ({"sampled_values": 3}, r"`sampled_values` must be a tuple \(.* Rec.*3"),
    "samples of two": ({"sampled_values": _samples()[:2]}, r"`sampled_values` must be a tuple \("),
    "samples float": (
        {"sampled_values": _samples(sampled=0.5 * _ones(S))},
        r"`sampled_values\[0\]` must be integers, .* Received: 0\.5\.",
    ),
    "samples none": (
        {"sampled_values": _samples(sampled=np.arange(0), counts=_ones(0))},
        r"`sampled_values\[0\]` must have shape \[num_sampled\], \[3\]\. Received: \[0\]\.",
    ),
    "samples rank": (
        {"sampled_values": _samples(sampled=np.zeros([S, 1], np.int64))},
        r"`sampled_values\[0\]` must have shape .* Received: \[3, 1\]\.",
    ),
    "true counts short": (
        {"sampled_values": _samples(true=_ones(B - 1, 1))},
        r"`sampled_values\[1\]` must have shape \[batch_size, 1\], .* Received: \[5, 1\]\.",
    ),
    "true counts wide": (
        {"sampled_values": _samples(true=_ones(B, 2))},
        r"`sampled_values\[1\]` must have shape .* Received: \[6, 2\]\.",
    ),
    "sampled counts short": (
        {"sampled_values": _samples(counts=_ones(S - 1))},
        r"`sampled_values\[2\]` must have shape \[num_sampled\], \[3\], or \[\]\. Received: \[2",
    ),
    "counts text": (
        {"sampled_values": _samples(counts=np.array(["a"] * S))},
        r"`sampled_values\[2\]` must be a real number\. Received: string\.",
    ),
}

# Changed tensors that only run-time shapes or values betray.
DYNAMIC = {
    "weights rows": ({"weights": _ones(V + 1, D)}, r"`weights` and `biases` must have"),
    "biases rows": ({"biases": _ones(V + 1)}, r"`weights` and `biases` must have"),
    "weights width": ({"weights": _ones(V, D + 1)}, r"`weights` must have shape"),
    "labels short": ({"labels": np.zeros([B - 1, 1], np.int64)}, r"`labels` must have shape"),
    "labels wide": ({"labels": np.zeros([B, 2], np.int64)}, r"`labels` must have shape"),
    "label negative": ({"labels": np.full([B, 1], -1)}, r"`labels` must be in 0 \.\. "),
    "label V": ({"labels": np.full([B, 1], V)}, r"`labels` must be in 0 \.\. "),
    "label huge": ({"labels": np.full([B, 1], 2**62)}, r"`labels` must be in 0 \.\. "),
    "sample negative": ({"sampled": np.array([0, -1, 2])}, r"`sampled_values\[0\]` must be in 0"),
    "sample V": ({"sampled": np.array([0, 1, V])}, r"`sampled_values\[0\]` must be in 0 \.\. "),
    "samples none": (
        {"sampled": np.arange(0), "counts": _ones(0)},
        r"`sampled_values\[0\]` must have shape \[num_sampled\], at least \[1\]",
    ),
    "true counts short": ({"true": _ones(B - 1, 1)}, r"`sampled_values\[1\]` must have shape"),
    "true counts wide": ({"true": _ones(B, 2)}, r"`sampled_values\[1\]` must have shape"),
    "sampled counts short": ({"counts": _ones(S - 1)}, r"`sampled_values\[2\]` must have shape"),
}
DYNAMIC_RANK = {
    "inputs rank": ({"inputs": _ones(B)}, r"`inputs` must have"),
    "labels rank": ({"labels": np.zeros([B, 1, 1], np.int64)}, r"`labels` must have"),
}
TENSORS = {
    "weights": _ones(V, D),
    "biases": _ones(V),
    "labels": np.zeros([B, 1], np.int64),
    "inputs": _ones(B, D),
    "sampled": np.arange(S),
    "true": _ones(B, 1),
    "counts": _ones(S),
}


def _loss(sampled: Any, true: Any, counts: Any, **tensors: Any) -> tf.Tensor:
    return LOSS(**tensors, num_sampled=S, num_classes=V, sampled_values=(sampled, true, counts))


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("case", STATIC)
def test_static(backend: str, case: str, mode: str) -> None:
    changes, message = STATIC[case]
    assert_refused(LOSS, {**GOOD, **changes}, message, mode)


@pytest.mark.parametrize("rank", ["known", "unknown"])
def test_dynamic(backend: str, rank: str) -> None:
    """One traced function, to which bad arguments come only when it runs."""
    # Counts of an unknown rank could be a scalar as well as a vector: theirs has to be known.
    known = specs_of({name: TENSORS[name] for name in ("true", "counts", "sampled")}, "known")
    cases = DYNAMIC | (DYNAMIC_RANK if rank == "unknown" else {})
    result = assert_refused_when_run(_loss, specs_of(TENSORS, rank) | known, TENSORS, cases)
    np.testing.assert_allclose(result, _loss(**TENSORS), rtol=1e-6)


@pytest.mark.parametrize("mode", ["eager", "graph", "gradient"])
@pytest.mark.parametrize("default_sampler", [False, True])
@pytest.mark.parametrize("label", [-1, V, np.iinfo(np.int64).min, np.iinfo(np.int64).max])
def test_label_that_is_no_class(backend: str, label: int, default_sampler: bool, mode: str) -> None:
    labels = np.zeros([B, 1], np.int64)
    labels[2] = label
    arguments = GOOD | {"labels": labels}
    if default_sampler:
        arguments["sampled_values"] = None

    def loss(inputs: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            value = LOSS(**(arguments | {"inputs": inputs}))
        return tape.gradient(value, inputs) if mode == "gradient" else value

    function = loss if mode == "eager" else tf.function(loss, autograph=False)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"`labels` must be in 0 \.\. "):
        function(tf.constant(GOOD["inputs"]))


def test_raw_operations_check_what_they_are_given() -> None:
    """Nobody calls them but this package; still nothing may read outside a buffer."""
    try:
        fastneg.use_backend("native")
    except fastneg.BackendUnavailableError as error:
        pytest.skip(str(error))
    fastneg.use_backend("auto")
    from fastneg.backends.native.library import operations

    good = {
        "rows": _ones(5, D),
        "inputs": _ones(B, D),
        "label_rows": np.zeros([B, 1], np.int32),
        "sampled_rows": np.arange(3, dtype=np.int32),
        "true_expected_count": _ones(B, 1),
        "sampled_expected_count": _ones(3),
        "biases": [_ones(5)],
    }
    bad = {
        "label_rows": [np.full([B, 1], 5, np.int32), np.full([B, 1], -1, np.int32)],
        "sampled_rows": [np.array([0, 1, 5], np.int32), np.array([0, -9, 1], np.int32)],
        "rows": [_ones(2, D), _ones(5, D + 1), _ones(5)],
        "inputs": [_ones(B - 1, D), _ones(B)],
        "true_expected_count": [_ones(B, 2), _ones(B)],
        "sampled_expected_count": [_ones(2), _ones(3, 1)],
        "biases": [[_ones(4)], [_ones(5, 1)]],
    }
    operation = operations().fastneg_sampled_softmax
    loss, *units = operation(**good, with_grad=True)
    assert loss.shape == [B]
    grad = operations().fastneg_sampled_softmax_grad
    for name, values in bad.items():
        for value in values:
            with pytest.raises(tf.errors.InvalidArgumentError, match="must "):
                operation(**{**good, name: value}, with_grad=True)
            with pytest.raises(tf.errors.InvalidArgumentError, match="must "):
                grad(tf.range(float(B)), *units, **{**good, name: value})
    for upstream in (_ones(B - 1), _ones(B, 1)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="`grad_loss` must have shape"):
            grad(upstream, *units, **good)
    with pytest.raises(tf.errors.InvalidArgumentError, match="`grad_rows` must have shape"):
        grad(_ones(B), units[1], *units[1:], **good)
