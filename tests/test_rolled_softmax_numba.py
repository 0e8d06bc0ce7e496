"""What only the numba backend has: callbacks from graphs, cached machine code, vector widths."""

import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import problems
import pytest
import tensorflow as tf
from processes import run_python

import fastneg
from fastneg import backends

if backends.why_unavailable("numba") is not None:
    pytest.skip("The numba backend does not load.", allow_module_level=True)

from fastneg.backends.numba import call, compiling, entry, inputs, threads, vector_ir

LOSS = fastneg.softmax_loss_with_negative_mining
PROBLEM = problems.make(16, 3, 6)


@pytest.fixture(autouse=True)
def _numba() -> Iterator[None]:
    with fastneg.use_backend("numba"):
        yield


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of every call of the kernels, whether it computed gradients."""
    original = call.rolled_softmax
    seen: list[bool] = []

    def spy(**arguments: Any) -> call.Result:
        seen.append(arguments["with_grad"])
        return original(**arguments)

    monkeypatch.setattr(call, "rolled_softmax", spy)
    return seen


def _loss(user_emb: Any, item_emb: Any = PROBLEM.item_emb) -> tf.Tensor:
    return LOSS(user_emb, item_emb, PROBLEM.labels, shifts=PROBLEM.shifts)


@pytest.mark.parametrize(
    ("watch", "expected"), [(None, False), ("other", False), ("item_emb", True)]
)
def test_eager_calls_compute_gradients_only_for_a_tape(
    calls: list[bool], watch: str | None, expected: bool
) -> None:
    tensors = {"item_emb": tf.constant(PROBLEM.item_emb), "other": tf.constant(0.0)}
    with tf.GradientTape() as tape:
        if watch:
            tape.watch(tensors[watch])
        _loss(PROBLEM.user_emb, tensors["item_emb"])
    assert calls == [expected]


def test_a_graph_computes_gradients_only_where_it_is_differentiated(calls: list[bool]) -> None:
    user_emb = tf.Variable(PROBLEM.user_emb)
    function = tf.function(lambda: _loss(user_emb), autograph=False)
    function()
    assert calls == [False]
    with tf.GradientTape() as tape:
        loss = function()
    assert tape.gradient(loss, user_emb) is not None
    assert calls == [False, True]
    function()
    assert calls == [False, True, False]


def test_a_training_step_calls_the_kernels_once(calls: list[bool]) -> None:
    @tf.function(autograph=False)
    def step(user_emb: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(user_emb)
            loss = _loss(user_emb)
        return tape.gradient(loss, user_emb)

    grad = step.get_concrete_function(tf.TensorSpec([16, 6]))
    assert grad.outputs[0].shape == [16, 6]
    grad(tf.constant(PROBLEM.user_emb))
    assert calls == [True]


def _arguments(problem: problems.Problem, **options: Any) -> dict[str, Any]:
    arrays = {name: getattr(problem, name) for name in ("user_emb", "item_emb", "labels", "shifts")}
    defaults = {
        "embed_normed": False,
        "positive_in_softmax": True,
        "negative_weight": 1.0,
        "correction": "standard",
    }
    return inputs.prepare({**arrays, **defaults, **problem.options, **options})


def _run(arguments: dict[str, Any], num_threads: int = 1) -> call.Result:
    return call.rolled_softmax(
        **arguments, with_grad=True, with_scalar_grad=True, num_threads=num_threads
    )


@pytest.mark.parametrize("embed_normed", [False, True])
def test_tiles_of_any_size_give_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, embed_normed: bool
) -> None:
    problem = problems.with_everything(problems.make(700, 37, 40))
    arguments = _arguments(problem, embed_normed=embed_normed)
    expected = _run(arguments)
    for tile_rows in (32, 64, 512):
        monkeypatch.setattr(call, "_tile_rows", lambda *_, rows=tile_rows: rows)
        for actual, value in zip(_run(arguments, num_threads=3), expected, strict=True):
            np.testing.assert_array_equal(actual, value)


@pytest.mark.parametrize("dim", [1, 16, 33, 64, 100, 300])
@pytest.mark.parametrize("num_negatives", [1, 4, 9, 21])
def test_a_negative_equal_to_the_positive_is_not_hard(dim: int, num_negatives: int) -> None:
    """The score must not depend on where among the candidates an item stands."""
    problem = problems.make(64, num_negatives, dim)
    problem.item_emb[:] = problem.item_emb[0]
    result = _run(_arguments(problem.with_options(margin=0.0, t=100.0)))
    assert result.loss == pytest.approx(np.log(1 + num_negatives), rel=1e-6)


def test_a_call_does_not_change_its_arguments_or_earlier_results() -> None:
    first = _run(_arguments(PROBLEM))
    kept = [value.copy() for value in first]
    _run(_arguments(problems.make(16, 3, 6, seed=1)))
    for value, copy in zip(first, kept, strict=True):
        np.testing.assert_array_equal(value, copy)


def test_no_directory_for_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing_njit(*, cache: bool = False, **options: Any) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: (function, options)

    monkeypatch.setattr(compiling, "njit", refusing_njit)
    _, options = compiling.entry.__wrapped__(entry.make_run)
    assert options["nogil"]


def test_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """When writing fails, numba has the machine code and keeps it."""
    original = compiling.entry(entry.make_run)
    failures = [OSError("No space left on device")]

    def run(*arguments: Any) -> None:
        if failures:
            raise failures.pop()
        original(*arguments)

    expected = _run(_arguments(PROBLEM))
    monkeypatch.setattr(compiling, "entry", lambda make: run)
    monkeypatch.setattr(compiling, "_compiled", set())
    np.testing.assert_array_equal(_run(_arguments(PROBLEM)).loss, expected.loss)


@pytest.mark.skipif(vector_ir.VECTOR_BYTES == 32, reason="All other tests have this width.")
def test_vectors_of_half_the_width(tmp_path: pathlib.Path) -> None:
    """Machines without AVX-512 get other code, which this one can run too."""
    problem = problems.with_everything(problems.make(200, 21, 50))
    code = f"""
        import numpy as np
        import problems
        import test_rolled_softmax_numba as test
        assert test.vector_ir.VECTOR_BYTES == 32
        problem = problems.with_everything(problems.make(200, 21, 50))
        np.savez({str(tmp_path / "result.npz")!r}, **test._run(test._arguments(problem))._asdict())
    """
    run_python(
        code,
        NUMBA_CPU_NAME="haswell",
        NUMBA_CPU_FEATURES="+avx,+avx2,+fma,+f16c,+sse4.2,+popcnt",
    )
    narrow = np.load(tmp_path / "result.npz")
    for name, value in _run(_arguments(problem))._asdict().items():
        np.testing.assert_allclose(narrow[name], value, rtol=1e-4, atol=1e-7, err_msg=name)


@pytest.mark.parametrize(
    ("value", "intra_op", "expected"),
    [("3", 2, 3), ("", 2, 2), ("0", 2, 2), ("-1", 2, 2), ("many", 2, 2), ("100000", 2, 256)],
)
def test_number_of_threads(
    monkeypatch: pytest.MonkeyPatch, value: str, intra_op: int, expected: int
) -> None:
    monkeypatch.setenv("FASTNEG_NUM_THREADS", value)
    assert threads.num_threads(intra_op) == expected


def test_number_of_threads_without_a_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTNEG_NUM_THREADS", raising=False)
    assert 1 <= threads.num_threads() <= (os.cpu_count() or 1)
