"""Losses inside programs that XLA compiles: the forms that training takes."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from case_gradients import DIFFERENTIABLE, arguments_of, value_and_gradients, with_gradients
from processes import run_python
from small_cases import CASES

LOSSES = tuple(DIFFERENTIABLE)
WITH_GRADIENTS = [name for name, keys in DIFFERENTIABLE.items() if keys]
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


@pytest.mark.parametrize("name", WITH_GRADIENTS)
def test_a_tape_around_a_compiled_function(name: str) -> None:
    tensors = _tensors(name)
    compiled = tf.function(CASES[name].loss, input_signature=_unknown(tensors), jit_compile=True)
    actual = value_and_gradients(compiled, tensors)
    assert len(actual) > 1
    _assert_same(actual, value_and_gradients(CASES[name].loss, tensors))


def test_compiles_again_for_new_shapes_only(tmp_path: Path) -> None:
    """XLA writes down every program that it compiles."""
    run_python(
        """
        import numpy as np, tensorflow as tf
        import fastneg
        traces = []
        def shifted(users):
            return fastneg.softmax_loss_with_negative_mining(
                users, users, users[:, 0], shifts=[1, 2]
            )
        @tf.function(input_signature=[tf.TensorSpec([None, 8])], jit_compile=True)
        def counted(users):
            traces.append(1)
            return shifted(users)
        for size in (5, 9, 5, 9):
            users = tf.random.normal([size, 8], seed=size)
            np.testing.assert_array_equal(counted(users), shifted(users))
        assert len(traces) == 1
        """,
        XLA_FLAGS=f"--xla_dump_to={tmp_path} --xla_dump_hlo_as_text",
    )
    assert len(list(tmp_path.glob("*counted*after_optimizations.txt"))) == 2


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


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("wrap", [_in_a_loop, _in_a_branch, _recomputed])
def test_parts_of_programs(wrap: Callable[[Step], Step], name: str) -> None:
    arguments = dict(zip(CASES[name].arguments, _tensors(name), strict=True))
    keys = [key for key, value in arguments.items() if value.dtype.is_floating]

    def total(*values: tf.Tensor) -> tf.Tensor:
        changed = dict(zip(keys, values, strict=True))
        return tf.reduce_sum(CASES[name].loss(*{**arguments, **changed}.values()))

    def step(*values: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(values)
            loss = wrap(total)(*values)
        return [loss, *tape.gradient(loss, values, unconnected_gradients="zero")]

    values = [arguments[key] for key in keys]
    expected = tf.function(step)(*values)
    compiled = tf.function(step, jit_compile=True)(*values)
    assert any(np.any(grad) for grad in expected[1:]) == (name in WITH_GRADIENTS)
    for actual, wanted in zip(compiled, expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-6, atol=1e-7)


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
    """Functions that were compiled by XLA, and their gradients."""
    module = tf.Module()
    module.losses = {}
    expected: dict[str, list[Any]] = {}
    for name in LOSSES:
        tensors = _tensors(name)
        loss = tf.function(CASES[name].loss, input_signature=_unknown(tensors), jit_compile=True)
        expected[name] = value_and_gradients(loss, tensors)
        module.losses[name] = loss
    np.savez(tmp_path / "expected.npz", *tf.nest.flatten(expected))
    tf.saved_model.save(module, str(tmp_path / "model"))
    run_python(
        f"""
        import numpy as np, tensorflow as tf
        import fastneg
        from case_gradients import arguments_of, value_and_gradients
        losses = tf.saved_model.load({str(tmp_path / "model")!r}).losses
        actual = {{
            name: value_and_gradients(losses[name], list(map(tf.constant, arguments_of(name))))
            for name in {LOSSES}
        }}
        expected = np.load({str(tmp_path / "expected.npz")!r})
        for one, other in zip(tf.nest.flatten(actual), expected.values(), strict=True):
            np.testing.assert_array_equal(one, other)
        """
    )


def test_a_fork_after_use() -> None:
    """The child, whose pool has lost its threads, has XLA's handler at work, without TensorFlow."""
    run_python(
        """
        import os, signal
        import numpy as np, tensorflow as tf
        import fastneg, ffi_frames, pool
        from fastneg.backends.native.symbols import symbols
        rng = np.random.default_rng(0)
        labels, logits = rng.integers(0, 2, 5000), rng.normal(size=5000).astype(np.float32)
        @tf.function(jit_compile=True)
        def step(logits):
            with tf.GradientTape() as tape:
                tape.watch(logits)
                loss = fastneg.pairwise_loss(labels, logits, margin=0.5)
            return loss, tape.gradient(loss, logits)
        tensor = tf.constant(logits)
        expected = [result.numpy() for result in step(tensor)]
        assert len(pool.rests()) == 2
        def handled():
            results = [np.zeros(shape, np.float32) for shape in ([], [5000], [0], [0])]
            inputs = [labels, logits, np.float32(0.5), np.float32(1)]
            ffi_frames.call(
                symbols().FastnegXlaHandler,
                "Fastneg>PairwiseLogistic",
                list(map(np.asarray, inputs)),
                results,
                {"with_grad": True},
            )
            for actual, wanted in zip(results[:2], expected, strict=True):
                np.testing.assert_array_equal(actual, wanted)
            assert len(pool.rests()) == 2
        child = os.fork()
        if child == 0:
            signal.alarm(120)
            try:
                assert len(pool.rests()) == 0
                handled()
                handled()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        handled()
        for actual, wanted in zip(step(tensor), expected, strict=True):
            np.testing.assert_array_equal(actual, wanted)
        """,
        FASTNEG_NUM_THREADS="3",
    )


def test_several_threads(tmp_path: Path) -> None:
    """Threads of the pool compute each loss, with the bits that one thread gets outside XLA."""
    for threads in (1, 3):
        run_python(
            f"import probe_xla_threads; probe_xla_threads.run({str(tmp_path / str(threads))!r})",
            FASTNEG_NUM_THREADS=str(threads),
        )
    one, three = (np.load(tmp_path / f"{threads}.npz") for threads in (1, 3))
    assert len(one) == len(three)
    for name, result in one.items():
        np.testing.assert_array_equal(result, three[name])
