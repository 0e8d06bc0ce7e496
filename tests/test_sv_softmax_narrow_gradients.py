"""float16 and bfloat16 gradients that are rounded where they are computed: the same, none lost."""

from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import sv_softmax_cases as cases
import tensorflow as tf

import fastneg
from fastneg import backends

_core = pytest.importorskip("fastneg._core")
HALF_TYPES = ("float16", "bfloat16")
OPERATION = "Fastneg>SvSoftmax"

# Short rows, a vector and a tail, many vectors, long rows, rows that are computed twice.
SHAPES = ((33, 1), (70, 5), (37, 16), (50, 20), (24, 256), (17, 1000), (2, 9000), (2, 17003))


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("dtype", HALF_TYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_core_rounds_what_it_would_return(
    isa: str, shape: tuple[int, int], dtype: str, in_place: bool
) -> None:
    case = cases.with_weights(cases.make(*shape, dtype))
    scores = (case.pos_score, case.neg_scores)
    wide = _core.sv_softmax(*scores, scalar_gradients=True, **case.options)
    narrow = _core.sv_softmax(
        *scores, scalar_gradients=True, narrow_gradients=True, in_place=in_place, **case.options
    )
    for name, value in wide.items():
        rounded = value.astype(case.dtype) if name in ("grad_pos", "grad_neg") else value
        assert narrow[name].dtype == rounded.dtype
        np.testing.assert_array_equal(
            narrow[name].astype(np.float32), rounded.astype(np.float32), err_msg=name
        )


@pytest.fixture
def native() -> Iterator[None]:
    """The native backend."""
    if backends.why_unavailable("native") is not None:
        pytest.skip("The native backend does not load.")
    with fastneg.use_backend("native"):
        yield


def _gradients(scale: Any) -> Callable[..., Any]:
    def compute(pos_score: tf.Tensor, neg_scores: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch([pos_score, neg_scores])
            loss = fastneg.support_vector_guided_softmax_loss(pos_score, neg_scores, t=1.2)
            if scale is not None:
                loss = scale * loss
        return tape.gradient(loss, [pos_score, neg_scores])

    return compute


def _assert_true(grads: Any, case: cases.Case, factor: float = 1.0) -> None:
    """Within half a unit in the last place, and a little for the arithmetic before."""
    truth = cases.truth(case)
    for grad, exact in zip(grads, (truth.grad_pos, truth.grad_neg), strict=True):
        assert grad.dtype == case.dtype
        info = ml_dtypes.finfo(case.dtype)
        size = np.maximum(np.abs(factor * exact), float(info.smallest_normal))
        unit = float(info.eps) * 2.0 ** np.floor(np.log2(size))
        error = np.abs(grad.numpy().astype(np.float64) - factor * exact)
        assert np.all(error <= 0.51 * unit)


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize("dtype", HALF_TYPES)
def test_rounded_once_whatever_the_upstream_gradient_is(
    native: None, dtype: str, mode: str
) -> None:
    """Of 1, other powers of 2, and numbers that would make two roundings show."""
    case = cases.make(50, 20, dtype, margin=0.0, t=1.2, smooth=1.0, threshold=0.0)
    scores = tf.constant(case.pos_score), tf.constant(case.neg_scores)
    for scale in (None, 1.0, 0.3, None, 1024.0, 3.7, 3.7, None):
        compute = _gradients(None if scale is None else tf.constant(scale))
        if mode != "eager":
            compute = tf.function(compute, autograph=False, jit_compile=mode == "xla")
        _assert_true(compute(*scores), case, 1.0 if scale is None else scale)


def test_gradients_that_float16_cannot_hold_before_they_are_scaled(native: None) -> None:
    """Of a large batch, with the factor that mixed precision gives the loss."""
    num_rows, factor = 4096, 2.0**15
    pos_score = tf.zeros([num_rows], tf.float16)
    neg_scores = tf.fill([num_rows, 2], tf.constant(-9.0, tf.float16))
    for scale in (None, factor, factor):
        for wrap in (lambda f: f, lambda f: tf.function(f, autograph=False)):
            _, grad_neg = wrap(_gradients(scale))(pos_score, neg_scores)
            exact = (scale or 1.0) * np.exp(-9.0) / (1 + 2 * np.exp(-9.0)) / num_rows
            rtol = 1e-3 if scale else 1.0  # Unscaled, that is half of the smallest float16.
            np.testing.assert_allclose(grad_neg.numpy().astype(float), exact, rtol, 6e-8)


def _narrow(function: Any, *arguments: Any) -> list[bool]:
    graph = function.get_concrete_function(*arguments).graph
    return [op.get_attr("narrow_grads") for op in graph.get_operations() if op.type == OPERATION]


def test_where_a_graph_rounds_at_once(native: None) -> None:
    case = cases.make(8, 5, "bfloat16")
    scores = tf.constant(case.pos_score), tf.constant(case.neg_scores)
    plain = tf.function(_gradients(None), autograph=False)
    scaled = tf.function(_gradients(tf.Variable(1.0)), autograph=False)
    assert _narrow(plain, *scores) == [True]
    assert _narrow(scaled, *scores) == [False]
    assert _narrow(plain, *(tf.cast(score, tf.float32) for score in scores)) == [False]


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("dtype", HALF_TYPES)
def test_several_gradients_of_one_loss(native: None, dtype: str, mode: str) -> None:
    case = cases.make(30, 20, dtype, margin=0.0, t=1.2, smooth=1.0, threshold=0.0)

    def compute(pos_score: tf.Tensor, neg_scores: tf.Tensor) -> Any:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([pos_score, neg_scores])
            loss = fastneg.support_vector_guided_softmax_loss(pos_score, neg_scores, t=1.2)
            tripled = 3.0 * loss
        return [tape.gradient(of, [pos_score, neg_scores]) for of in (loss, tripled, loss)]

    function = compute if mode == "eager" else tf.function(compute, autograph=False)
    results = function(tf.constant(case.pos_score), tf.constant(case.neg_scores))
    for grads, factor in zip(results, (1.0, 3.0, 1.0), strict=True):
        _assert_true(grads, case, factor)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_no_second_derivative(native: None, mode: str) -> None:
    case = cases.make(8, 5, "float16")
    compute = _gradients(None)

    def twice(pos_score: tf.Tensor, neg_scores: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(neg_scores)
            _, grad_neg = compute(pos_score, neg_scores)
        return tape.gradient(grad_neg, neg_scores)

    function = twice if mode == "eager" else tf.function(twice, autograph=False)
    with pytest.raises(LookupError, match="must be computed by the reference backend"):
        function(tf.constant(case.pos_score), tf.constant(case.neg_scores))
