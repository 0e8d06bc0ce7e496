"""What the tests trace once serves only where a new trace would be the same."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import traced

import fastneg


def _function(options: Any, loss: Callable[..., Any] = fastneg.pairwise_loss) -> Any:
    def compute(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        return loss(labels, logits, **options)

    arguments = {"labels": tf.constant([0, 1]), "logits": tf.zeros([2])}
    return traced.wrap(compute, "graph", arguments)


def test_what_is_shared() -> None:
    options = {"margin": 0.5, "session_ids": np.array([1, 1])}
    function = _function(options)
    assert function is _function({"margin": 0.5, "session_ids": np.array([1, 1])})
    others = [
        _function({**options, "margin": 1.0}),
        _function({**options, "session_ids": np.array([1, 2])}),
        _function({**options, "session_ids": np.array([1, 1], np.int32)}),
        _function({"session_ids": np.array([1, 1])}),
        _function(options, fastneg.reference.pairwise_loss),
        _function(options, lambda *arguments, **options: fastneg.pairwise_loss(*arguments)),
    ]
    with fastneg.use_backend("reference"):
        others.append(_function(options))
    assert len({id(other) for other in [function, *others]}) == 1 + len(others)


def test_what_may_change_is_not_shared() -> None:
    weights = tf.Variable(1.0)
    assert _function({"weights": weights}) is not _function({"weights": weights})
