"""The CUDA kernel of the SV-softmax over given scores, run on the host, against the truth."""

from typing import Any

import cuda_on_host
import numpy as np
import oracle_sv_softmax
import problems
import pytest

# (num_rows, num_negatives): every way in which lanes share a row, with and without idle lanes.
SHAPES = (
    (1, 1),
    (70, 5),
    (37, 16),
    (40, 15),
    (19, 32),
    (35, 100),
    (24, 256),
    (9, 264),
    (17, 500),
    (5, 1003),
    (3, 5000),
)


def _case(shape: tuple[int, int], dtype: str) -> tuple[Any, Any]:
    rng = np.random.default_rng(shape)
    kind = problems.DTYPES[dtype]
    return (rng.normal(size=shape[0]) + 1).astype(kind), rng.normal(size=shape).astype(kind)


def _check(results: dict[str, Any], pos: Any, neg: Any, **options: Any) -> None:
    kind = problems.compute_dtype(neg.dtype)
    if options.get("weights") is None:
        options.pop("weights", None)
    numbers = {
        name: float(kind(value)) if np.ndim(value) == 0 else value
        for name, value in options.items()
    }
    truth = oracle_sv_softmax.sv_softmax(pos, neg, **numbers)
    smooth = 1 + abs(options.get("smooth", 1.0))
    count = len(pos)
    usual = {
        "loss": (truth.loss, 1.0),
        "grad_pos": (truth.grad_pos, smooth / count),
        "grad_neg": (truth.grad_neg, smooth / count),
        "grad_weights": (truth.grad_weights, 1 / count),
        "grad_scalars": (np.array([truth.grad_smooth, truth.grad_margin, truth.grad_t]), smooth),
    }
    for name, value in results.items():
        exact, size = usual[name]
        scale = np.max(np.abs(exact), initial=0.0) + size
        error = np.max(np.abs(value - exact), initial=0.0)
        units = 32 * max(1.0, smooth / 50)
        assert error <= units * np.finfo(np.asarray(value).dtype).eps * scale, name  # NaN fails.


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", problems.DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_values(
    kernels: cuda_on_host.Kernels, shape: tuple[int, int], dtype: str, weighted: bool
) -> None:
    pos, neg = _case(shape, dtype)
    options: dict[str, Any] = {"margin": 0.1, "t": 1.2, "smooth": 3.0, "threshold": 0.05}
    if weighted:
        rng = np.random.default_rng(1)
        weights = rng.random(len(pos)) * (rng.random(len(pos)) < 0.8)
        weights[0] = 0.7
        options["weights"] = weights.astype(problems.compute_dtype(neg.dtype))
    results = kernels.sv_softmax(pos, neg, **options)
    _check(results, pos, neg, **options)
    alone = kernels.sv_softmax(pos, neg, grads=False, **options)
    for name, value in alone.items():
        np.testing.assert_array_equal(value, results[name], err_msg=name)


@pytest.mark.parametrize("smooth", [-3.0, 0.0, 500.0, -500.0])
def test_any_scale(kernels: cuda_on_host.Kernels, smooth: float) -> None:
    for shape in ((70, 5), (24, 256), (5, 1003)):
        pos, neg = _case(shape, "float64")
        options = {"margin": 0.1, "t": -0.5, "smooth": smooth, "threshold": -3.0}
        _check(kernels.sv_softmax(pos, neg, **options), pos, neg, **options)


@pytest.mark.parametrize("shape", [(70, 5), (24, 256), (17, 500), (5, 1003), (3, 5000)])
def test_gradients_may_take_the_place_of_the_scores(
    kernels: cuda_on_host.Kernels, shape: tuple[int, int]
) -> None:
    pos, neg = _case(shape, "float32")
    expected = kernels.sv_softmax(pos, neg, t=1.2)
    for name, value in kernels.sv_softmax(pos, neg, t=1.2, in_place=True).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_of_scores_may_be_rounded(
    kernels: cuda_on_host.Kernels, shape: tuple[int, int], dtype: str, in_place: bool
) -> None:
    pos, neg = _case(shape, dtype)
    weights = np.arange(len(pos), dtype=np.float32) % 5
    options = {"t": 1.2, "weights": weights}
    wide = kernels.sv_softmax(pos, neg, **options)
    narrow = kernels.sv_softmax(pos, neg, narrow_grads=True, in_place=in_place, **options)
    for name, value in wide.items():
        rounded = value.astype(neg.dtype) if name in ("grad_pos", "grad_neg") else value
        assert np.asarray(narrow[name]).dtype == rounded.dtype
        np.testing.assert_array_equal(np.float64(narrow[name]), np.float64(rounded), err_msg=name)


def test_any_order_of_blocks_and_threads_gives_the_same_bits(kernels: cuda_on_host.Kernels) -> None:
    pos, neg = _case((300, 37), "float32")
    weights = np.linspace(0, 1, 300, dtype=np.float32)
    expected = kernels.sv_softmax(pos, neg, weights=weights)
    kernels.set_order(1)
    for name, value in kernels.sv_softmax(pos, neg, weights=weights).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_nothing_counts(kernels: cuda_on_host.Kernels) -> None:
    pos, neg = _case((20, 7), "float32")
    neg[3] = np.nan
    for name, value in kernels.sv_softmax(pos, neg, weights=np.zeros(20, np.float32)).items():
        assert not np.any(value), name


@pytest.mark.parametrize("shape", [(0, 5), (6, 0)])
def test_nothing_to_add_up(kernels: cuda_on_host.Kernels, shape: tuple[int, int]) -> None:
    results = kernels.sv_softmax(np.ones(shape[0], np.float32), np.ones(shape, np.float32))
    assert results["loss"] == 0
    assert not np.any(results["grad_scalars"])
    assert not np.any(results["grad_pos"])


@pytest.mark.parametrize("dtype", problems.DTYPES)
@pytest.mark.parametrize("shape", [(70, 5), (37, 16), (24, 256), (17, 500), (5, 1003), (3, 5000)])
def test_minus_infinity_stands_for_no_negative(
    kernels: cuda_on_host.Kernels, shape: tuple[int, int], dtype: str
) -> None:
    """Nor in the derivatives by the scalars. It costs e^-infinity, which e^-(10^6) is as well."""
    pos, neg = _case(shape, dtype)
    missing = np.random.default_rng(shape).random(shape) < 0.3
    missing[0], missing[1, 1:] = True, True
    neg[missing] = np.float32(-np.inf)
    options = {"margin": 0.125, "t": 1.25, "smooth": 3.0, "threshold": 0.0625}
    results = kernels.sv_softmax(pos, neg, **options)
    _check(results, pos, np.where(missing, -1e6, neg.astype(np.float64)), **options)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_numbers_show(kernels: cuda_on_host.Kernels, bad: float) -> None:
    for shape in ((70, 5), (24, 256), (5, 1003)):
        pos, neg = _case(shape, "float32")
        neg[2, 4] = bad
        assert not np.isfinite(kernels.sv_softmax(pos, neg)["loss"])
        pos, neg = _case(shape, "float32")
        pos[1] = bad
        assert not np.isfinite(kernels.sv_softmax(pos, neg)["loss"])
