"""What the numba backend comes to inside XLA, which cannot call back into Python: the reference."""

import numpy as np
import pytest
import tensorflow as tf
from small_cases import CASES, Case

import fastneg


def _value_and_gradients(case: Case, backend: str) -> list[np.ndarray]:
    @tf.function(autograph=False, jit_compile=True)
    def compute(*arguments: tf.Tensor) -> list[tf.Tensor]:
        floats = [argument for argument in arguments if argument.dtype.is_floating]
        with tf.GradientTape() as tape:
            tape.watch(floats)
            value = case.loss(*arguments)
        return [value, *tape.gradient(value, floats, unconnected_gradients="zero")]

    with fastneg.use_backend(backend):
        results = compute(*(tf.constant(argument) for argument in case.arguments.values()))
    return [result.numpy() for result in results]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_is_the_reference(case: Case) -> None:
    try:
        actual = _value_and_gradients(case, "numba")
    except fastneg.BackendUnavailableError as error:
        pytest.skip(str(error))
    for result, expected in zip(actual, _value_and_gradients(case, "reference"), strict=True):
        np.testing.assert_array_equal(result, expected)
