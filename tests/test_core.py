"""What holds for the core whatever the loss is."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

core = pytest.importorskip("fastneg._core")

SUBNORMAL = np.float32(1e-40)
COUNTED = np.array([1, SUBNORMAL], np.float32)  # One row of weight 1, and one that is hardly there.
SAME = np.ones((2, 3), np.float32)  # Whatever is rolled, all cosines are 1.

# Every row loss is log(1 + exp(0)), and there is one row that counts.
CALLS: dict[str, Callable[[], Any]] = {
    "rolled_softmax, weights": lambda: core.rolled_softmax(
        SAME, SAME, np.ones(2, np.float32), np.array([1]), weights=COUNTED
    ),
    "rolled_softmax, labels": lambda: core.rolled_softmax(SAME, SAME, COUNTED, np.array([1])),
    "sv_softmax, weights": lambda: core.sv_softmax(
        np.zeros(2, np.float32), np.zeros((2, 1), np.float32), weights=COUNTED
    ),
    "pairwise_logistic, weights": lambda: core.pairwise_logistic(
        np.array([0, 1, 1]), np.zeros(3), weights=np.array([1, 1, 1e-310])
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_subnormal_numbers_are_0_on_every_thread(name: str) -> None:
    """TensorFlow's threads flush them anyway, Python's do not."""
    losses = [CALLS[name]()["loss"]]
    thread = threading.Thread(target=lambda: losses.append(CALLS[name]()["loss"]))
    thread.start()
    thread.join()
    np.testing.assert_allclose(losses, np.log(2.0), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["V0", []])
def test_labels_without_a_size(dtype: Any) -> None:
    with pytest.raises(TypeError, match=r"`labels` must be an array of numbers"):
        core.rolled_softmax(SAME, SAME, np.empty(2, np.dtype(dtype)), np.array([1]))
