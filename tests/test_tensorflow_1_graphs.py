"""Graphs and sessions of TensorFlow 1, where `==` asks whether tensors are the same object."""

import numpy as np
import pytest
import tensorflow as tf
from small_cases import CASES

import fastneg


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_session(backend: str, name: str, known: bool) -> None:
    case = CASES[name]
    values = list(case.arguments.values())
    expected = case.loss(*map(tf.constant, values))
    with tf.Graph().as_default(), fastneg.use_backend(backend):
        shapes = [v.shape if known else [None, *v.shape[1:]] for v in values]
        inputs = [
            tf.compat.v1.placeholder(v.dtype, shape)
            for v, shape in zip(values, shapes, strict=True)
        ]
        loss = case.loss(*inputs)
        with tf.compat.v1.Session() as session:
            actual = session.run(loss, dict(zip(inputs, values, strict=True)))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
