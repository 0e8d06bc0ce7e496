"""Graphs and sessions of TensorFlow 1, where `==` asks whether tensors are the same object."""

import numpy as np
import pytest
import tensorflow as tf
from case_gradients import DIFFERENTIABLE
from small_cases import CASES, WITHOUT_NUMBA

import fastneg

# What is differentiated, of the losses that have a gradient of their own.
SOURCES = {name: keys for name, keys in DIFFERENTIABLE.items() if keys}


def _skip_what_numba_has_not(backend: str, name: str) -> None:
    if backend == "numba" and name in WITHOUT_NUMBA:
        pytest.skip("Numba has no such loss.")


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_session(backend: str, name: str, known: bool) -> None:
    _skip_what_numba_has_not(backend, name)
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


@pytest.mark.parametrize("name", SOURCES)
def test_gradient_asked_for_after_the_session_ran_the_loss(fused_backend: str, name: str) -> None:
    _skip_what_numba_has_not(fused_backend, name)
    case = CASES[name]
    followed = [list(case.arguments).index(key) for key in SOURCES[name]]
    tensors = [tf.constant(value) for value in case.arguments.values()]
    with fastneg.use_backend("reference"), tf.GradientTape() as tape:
        sources = [tensors[place] for place in followed]
        tape.watch(sources)
        loss = case.loss(*tensors)
    expected = tape.gradient(loss, sources)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        inputs = [tf.constant(value) for value in case.arguments.values()]
        loss = case.loss(*inputs)
        session.run(loss)
        actual = session.run(tf.gradients(loss, [inputs[place] for place in followed]))
    for gradient, truth in zip(actual, expected, strict=True):
        np.testing.assert_allclose(gradient, truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("known", [True, False])
def test_a_layer_of_several_heads(known: bool) -> None:
    """Plain TensorFlow scores them. The first two candidates are one."""
    heads = np.array([[[3, 2, 1], [1, 1, 3]], [[2, 3, 4], [4, 3, 2]]], np.float32)
    candidate = np.array([[0, 1, 0], [0, 1, 1], [1, 1, 0]], np.float32)
    # Scores of heads [[2, 3, 5], [1, 4, 2]], [[3, 7, 5], [3, 5, 7]]; the largest [[2, 4, 5],
    # [3, 7, 7]], of which 2 and 5, and 7 and 7, are in a softmax.
    share = 1 / (1 + np.exp(-3.0))
    grads = [[[share, 0, 0], [0, 0, 0]], [[0, -0.5, -0.5], [0.5, 0.5, 0]]]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        query = tf.compat.v1.placeholder(tf.float32, heads.shape if known else [None, None, 3])
        ids = tf.compat.v1.placeholder(tf.string, [3] if known else [None])
        task = fastneg.layers.Retrieval(remove_accidental_hits=True, reduction="none")
        loss = task(query, tf.constant(candidate), candidate_ids=ids)
        fetched = [loss, *tf.gradients(loss, query)]
        actual, actual_grads = session.run(fetched, {query: heads, ids: ["a", "a", "b"]})
    np.testing.assert_allclose(actual, np.log1p(np.exp([3.0, 0.0])), rtol=1e-6)
    np.testing.assert_allclose(actual_grads, grads, rtol=1e-5, atol=1e-6)
