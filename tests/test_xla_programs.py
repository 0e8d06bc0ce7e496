"""Losses inside programs that XLA compiles: the forms that training takes."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from case_gradients import arguments_of, with_gradients
from processes import run_python
from small_cases import CASES

import fastneg

LOSSES = ("rolled_softmax", "shuffled_cosine", "sv_softmax", "pairwise_logistic")
Step = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("native_in_xla")


def _tensors(name: str) -> list[tf.Tensor]:
    return [tf.constant(value) for value in arguments_of(name)]


def _assert_same(actual: Any, expected: Any) -> None:
    for one, other in zip(tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True):
        np.testing.assert_array_equal(one, other)


def _unknown(tensors: list[tf.Tensor]) -> list[tf.TensorSpec]:
    """Their types, with the sizes unknown."""
    return [tf.TensorSpec([None] * tensor.shape.rank, tensor.dtype) for tensor in tensors]


@pytest.mark.parametrize("name", LOSSES)
def test_unknown_sizes(name: str) -> None:
    tensors = _tensors(name)
    step = tf.function(with_gradients(name), input_signature=_unknown(tensors), jit_compile=True)
    _assert_same(step(*tensors), with_gradients(name)(*tensors))


@pytest.mark.parametrize("name", LOSSES)
def test_a_tape_around_a_compiled_function(name: str) -> None:
    tensors = _tensors(name)
    compiled = tf.function(CASES[name].loss, input_signature=_unknown(tensors), jit_compile=True)
    followed = [tensor for tensor in tensors if tensor.dtype.is_floating]
    gradients = []
    for loss in (compiled, CASES[name].loss):
        with tf.GradientTape() as tape:
            tape.watch(followed)
            value = loss(*tensors)
        gradients.append([grad for grad in tape.gradient(value, followed) if grad is not None])
    assert gradients[0]
    _assert_same(*gradients)


def test_compiles_again_for_new_shapes_only() -> None:
    traces = []

    @tf.function(input_signature=[tf.TensorSpec([None, 8])], jit_compile=True)
    def loss(users: tf.Tensor) -> tf.Tensor:
        traces.append(1)
        return fastneg.softmax_loss_with_negative_mining(users, users, users[:, 0], shifts=[1, 2])

    for size in (5, 9, 5, 9):
        users = tf.random.normal([size, 8], seed=size)
        expected = fastneg.softmax_loss_with_negative_mining(
            users, users, users[:, 0], shifts=[1, 2]
        )
        np.testing.assert_array_equal(loss(users), expected)
    assert len(traces) == 1


def _in_a_loop(step: Step) -> Step:
    def compute(*tensors: tf.Tensor) -> tf.Tensor:
        total = tf.constant(0.0)
        for _ in tf.range(3):
            total += step(*tensors)
        return total

    return compute


def _in_a_branch(step: Step) -> Step:
    def compute(*tensors: tf.Tensor) -> tf.Tensor:
        return tf.cond(
            tf.reduce_sum(tensors[0]) < 1e6, lambda: step(*tensors), lambda: tf.constant(0.0)
        )

    return compute


def _recomputed(step: Step) -> Step:
    return tf.recompute_grad(step)


def _twice(step: Step) -> Step:
    return lambda *tensors: step(*tensors) + 2.0 * step(*[tensor + 0 for tensor in tensors])


@pytest.mark.parametrize("wrap", [_in_a_loop, _in_a_branch, _recomputed, _twice])
def test_parts_of_programs(wrap: Callable[[Step], Step]) -> None:
    users, items, *others = _tensors("rolled_softmax")
    if wrap is _twice:
        others = [tf.cast(other, tf.int32) if other.dtype == tf.bool else other for other in others]

    def step(users: tf.Tensor, items: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch([users, items])
            loss = wrap(lambda *two: CASES["rolled_softmax"].loss(*two, *others))(users, items)
        return [loss, *tape.gradient(loss, [users, items])]

    compiled = tf.function(step, jit_compile=True)(users, items)
    for actual, expected in zip(compiled, tf.function(step)(users, items), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-8)


def test_evaluation_inside_xla_computes_no_gradients() -> None:
    tensors = _tensors("rolled_softmax")
    compiled = tf.function(CASES["rolled_softmax"].loss, jit_compile=True)
    program = compiled.experimental_get_compiler_ir(*tensors)(stage="optimized_hlo")
    (call,) = [line for line in program.splitlines() if 'custom_call_target="fastneg"' in line]
    assert "with_grad = false" in call


def test_threads_that_compile_and_run_models_of_their_own() -> None:
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            tensors = _tensors(name)
            step = tf.function(with_gradients(name), jit_compile=True)
            expected = with_gradients(name)(*tensors)
            for _ in range(20):
                _assert_same(step(*tensors), expected)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(name,)) for name in LOSSES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_saved_and_loaded_in_another_process(tmp_path: Path) -> None:
    """A function that was compiled by XLA, and its gradient."""
    users, *others = _tensors("rolled_softmax")
    module = tf.Module()
    module.loss = tf.function(
        lambda users: CASES["rolled_softmax"].loss(users, *others),
        input_signature=[tf.TensorSpec([None, users.shape[1]])],
        jit_compile=True,
    )
    with tf.GradientTape() as tape:
        tape.watch(users)
        loss = module.loss(users)
    np.savez(tmp_path / "expected.npz", users=users, loss=loss, grad=tape.gradient(loss, users))
    tf.saved_model.save(module, str(tmp_path / "model"))
    run_python(
        f"""
        import numpy as np, tensorflow as tf
        import fastneg
        model = tf.saved_model.load({str(tmp_path / "model")!r})
        expected = np.load({str(tmp_path / "expected.npz")!r})
        users = tf.constant(expected["users"])
        with tf.GradientTape() as tape:
            tape.watch(users)
            loss = model.loss(users)
        np.testing.assert_array_equal(loss, expected["loss"])
        np.testing.assert_array_equal(tape.gradient(loss, users), expected["grad"])
        """
    )


def test_a_fork_after_use() -> None:
    run_python(
        """
        import os
        import numpy as np, tensorflow as tf
        from case_gradients import arguments_of, with_gradients
        tensors = [tf.constant(value) for value in arguments_of("rolled_softmax")]
        step = tf.function(with_gradients("rolled_softmax"), jit_compile=True)
        first = step(*tensors)[0]
        child = os.fork()
        if child == 0:
            from fastneg.backends.native.symbols import symbols
            os._exit(0 if symbols().FastnegNumThreads() > 0 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert step(*tensors)[0] == first
        """
    )


@pytest.mark.parametrize("threads", [1, 3])
def test_numbers_of_threads(threads: int) -> None:
    run_python(
        """
        import numpy as np, tensorflow as tf
        import fastneg
        users, items = (tf.random.normal([600, 32], seed=seed) for seed in (1, 2))
        def loss():
            return fastneg.softmax_loss_with_negative_mining(
                users, items, tf.ones([600]), shifts=np.arange(1, 40)
            )
        np.testing.assert_array_equal(tf.function(loss, jit_compile=True)(), loss())
        assert fastneg.build_info()["native_threads_from"] == "FASTNEG_NUM_THREADS"
        """,
        FASTNEG_NUM_THREADS=str(threads),
    )
