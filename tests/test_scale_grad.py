"""Fastneg>ScaleGrad, the last step of every gradient: rounding to the dtype of the embeddings."""

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from processes import run_python

import fastneg

HALF_TYPES = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
# Whole vectors and a few more; and enough for several threads.
SIZES = (1, 7, 16, 1007, 200_003)


def _bit_patterns(size: int) -> np.ndarray:
    """Floats of all magnitudes, halves of a last place, infinities and NaN; no subnormal ones."""
    rng = np.random.default_rng(size)
    values = rng.integers(0, 2**32, size, np.uint32)
    tie_of_float16, tie_of_bfloat16 = values % 3 == 0, values % 3 == 1
    values[tie_of_float16] = values[tie_of_float16] & ~np.uint32(0x1FFF) | np.uint32(0x1000)
    values[tie_of_bfloat16] = values[tie_of_bfloat16] & ~np.uint32(0xFFFF) | np.uint32(0x8000)
    # Half of them lie around the smallest and the largest float16.
    near = values % 2 == 0
    exponents = rng.integers(127 - 26, 127 + 17, size).astype(np.uint32)
    values[near] = values[near] & np.uint32(0x807FFFFF) | exponents[near] << 23
    floats = values.view(np.float32)
    floats[np.abs(floats) < np.finfo(np.float32).tiny] = 0
    floats[: size // 20] = np.resize(
        np.float32([np.inf, -np.inf, np.nan, 65519.996, -0.0]), size // 20
    )
    return floats


def assert_rounds_as_ml_dtypes() -> None:
    """To nearest, ties to even, in every lane of a vector and behind the last whole one."""
    from fastneg.backends.native.scale_grad import scale_grad

    for dtype in HALF_TYPES:
        for size in SIZES:
            values = _bit_patterns(size)
            for scale in (1.0, -0.5):
                (actual,) = scale_grad(
                    tf.constant(scale), [tf.constant(values)], tf.as_dtype(dtype)
                )
                with np.errstate(over="ignore", under="ignore", invalid="ignore"):
                    product = np.float32(scale) * values
                    product[np.abs(product) < np.finfo(np.float32).tiny] *= 0
                    expected = product.astype(dtype)
                numbers = ~np.isnan(product)
                np.testing.assert_array_equal(np.isnan(actual.numpy().astype(np.float32)), ~numbers)
                np.testing.assert_array_equal(
                    actual.numpy().view(np.uint16)[numbers], expected.view(np.uint16)[numbers]
                )


@pytest.mark.parametrize("isa", ["baseline", "x86-64-v3", "x86-64-v4"])
def test_rounding(isa: str) -> None:
    if isa not in fastneg.build_info().get("native_available_isas", []):
        pytest.skip(f"The native backend or this machine does not have {isa}.")
    run_python(
        "import test_scale_grad; test_scale_grad.assert_rounds_as_ml_dtypes()", FASTNEG_ISA=isa
    )
