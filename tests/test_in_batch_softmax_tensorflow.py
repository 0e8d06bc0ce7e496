"""The in-batch softmax loss saved, differentiated twice, and of unknown sizes inside XLA."""

import functools
from pathlib import Path
from typing import Any

import in_batch_problems
import numpy as np
import oracle_in_batch_softmax as oracle
import pytest
import tensorflow as tf
from in_batch_problems import LOSS
from processes import run_python

import fastneg

MADE = in_batch_problems.make(12, 20, 6)
IDS = np.arange(20) % 7


def _loss_and_gradients(query: Any, candidate: Any, reduction: str) -> Any:
    with tf.GradientTape() as tape:
        tape.watch([query, candidate])
        loss = LOSS(query, candidate, candidate_ids=IDS, reduction=reduction)
    return loss, *tape.gradient(loss, [query, candidate])


def _losses_and_ranks(jit_compile: bool) -> tf.Module:
    """Functions of embeddings of any number; the first one returns gradients too."""
    module = tf.Module()
    function = functools.partial(
        tf.function,
        input_signature=[tf.TensorSpec([None, 6])] * 2,
        jit_compile=jit_compile,
        autograph=False,
    )
    module.step = function(lambda *towers: _loss_and_gradients(*towers, "mean"))
    module.rows = function(lambda *towers: LOSS(*towers, candidate_ids=IDS, reduction="none"))
    module.ranks = function(lambda *towers: fastneg.positive_ranks(*towers, candidate_ids=IDS))
    return module


def check_loaded(path: str) -> None:
    """What was saved is as near the truth as float32 allows, and can be differentiated."""
    loaded = tf.saved_model.load(path)
    towers = [tf.constant(MADE.query), tf.constant(MADE.candidate)]
    with tf.GradientTape() as tape:
        tape.watch(towers)
        rows = loaded.rows(*towers)
    for reduction, results in (
        ("mean", loaded.step(*towers)),
        ("none", (rows, *tape.gradient(rows, towers))),
    ):
        exact = oracle.in_batch_softmax(*towers, candidate_ids=IDS, reduction=reduction)
        for actual, expected in zip(results, exact[:3], strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    ranks = oracle.positive_ranks(*towers, candidate_ids=IDS)
    np.testing.assert_array_equal(loaded.ranks(*towers), ranks)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_saved_and_loaded_in_another_process(
    request: pytest.FixtureRequest, tmp_path: Path, jit_compile: bool
) -> None:
    request.getfixturevalue("native_in_xla" if jit_compile else "native")
    tf.saved_model.save(_losses_and_ranks(jit_compile), str(tmp_path))
    run_python(f"import test_in_batch_softmax_tensorflow as t; t.check_loaded({str(tmp_path)!r})")


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_second_derivatives_are_refused(native: str, mode: str, reduction: str) -> None:
    def second(query: tf.Tensor) -> Any:
        with tf.GradientTape() as outer:
            outer.watch(query)
            grad = _loss_and_gradients(query, tf.constant(MADE.candidate), reduction)[1]
        return outer.gradient(grad, query)

    call = tf.function(second, autograph=False) if mode == "graph" else second
    with pytest.raises(LookupError, match="reference"):
        call(tf.constant(MADE.query))


def test_unknown_sizes_inside_xla(native_in_xla: str) -> None:
    step = tf.function(
        lambda query, candidate: _loss_and_gradients(query, candidate, "none"),
        input_signature=[tf.TensorSpec([None, None])] * 2,
        jit_compile=True,
        autograph=False,
    )
    arguments = tf.constant(MADE.query), tf.constant(MADE.candidate)
    expected = _loss_and_gradients(*arguments, "none")
    for actual, exact in zip(step(*arguments), expected, strict=True):
        np.testing.assert_array_equal(actual, exact)
