"""The handlers of custom calls in JAX, without TensorFlow: nothing in them leans on it."""

import importlib.util
from pathlib import Path

import pytest
from processes import run_fresh_python

if importlib.util.find_spec("jax") is None:
    pytest.skip("JAX is not installed", allow_module_level=True)

_SETUP = """
import sys
sys.modules["tensorflow"] = None
import ctypes, functools
import jax, numpy as np
import jax.numpy as jnp
import oracle, oracle_sv_softmax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_enable_x64", True)
library = ctypes.CDLL({library!r})
jax.ffi.register_ffi_target(
    "fastneg", jax.ffi.pycapsule(library.FastnegXlaHandler), platform="cpu"
)
generator = np.random.default_rng(0)

def call(op, results, *arguments, **attributes):
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for dtype, shape in results]
    return jax.ffi.ffi_call("fastneg", shapes)(*arguments, op="Fastneg>" + op, **attributes)
"""

_ROLLED = """
users, items = generator.normal(size=(2, 50, 24))
labels = generator.integers(0, 2, 50)
shifts = np.array([1, 5, 49])

@functools.partial(jax.jit, static_argnames="dtype")
def rolled(users, items, dtype):
    users, items = users.astype(dtype), items.astype(dtype)
    results = [(dtype, shape) for shape in ((), users.shape, items.shape, (0,), (3,))]
    return call(
        "RolledSoftmax", results, users, items, labels, shifts,
        gamma=20.0, margin=0.1, t=1.2, negative_weight=1.0, with_grad=True, with_scalar_grad=True,
    )

truth = oracle.rolled_softmax(users, items, labels, shifts, gamma=20.0, margin=0.1, t=1.2)
for dtype, tolerance in ((jnp.float64, 1e-12), (jnp.float32, 2e-5)):
    loss, grad_users, grad_items, _, grad_scalars = rolled(users, items, dtype)
    np.testing.assert_allclose(loss, truth.loss, rtol=tolerance)
    np.testing.assert_allclose(grad_users, truth.grad_user, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(grad_items, truth.grad_item, rtol=tolerance, atol=tolerance)
    scalars = [truth.grad_gamma, truth.grad_margin, truth.grad_t]
    np.testing.assert_allclose(grad_scalars, scalars, rtol=tolerance, atol=tolerance)
again = rolled(users, items, jnp.float32)
assert all(np.array_equal(*pair) for pair in zip(again, rolled(users, items, jnp.float32)))
"""

_SV_SOFTMAX = """
positive, negatives = generator.normal(size=40), generator.normal(size=(40, 9))
weights = generator.uniform(size=40)
results = [(jnp.float64, shape) for shape in ((), (40,), (40, 9), (40,), *[(0,)] * 3)]
loss, grad_positive, grad_negatives, grad_weights, *_ = jax.jit(
    lambda *arguments: call(
        "SvSoftmax", results, *arguments, weights,
        smooth=8.0, margin=0.2, t=1.3, threshold=0.1, with_grad=True, num_weights=1,
    )
)(positive, negatives)
truth = oracle_sv_softmax.sv_softmax(
    positive, negatives, smooth=8.0, margin=0.2, t=1.3, threshold=0.1, weights=weights
)
np.testing.assert_allclose(loss, truth.loss, rtol=1e-12)
np.testing.assert_allclose(grad_positive, truth.grad_pos, rtol=1e-11, atol=1e-15)
np.testing.assert_allclose(grad_negatives, truth.grad_neg, rtol=1e-11, atol=1e-15)
np.testing.assert_allclose(grad_weights, truth.grad_weights, rtol=1e-11, atol=1e-15)
"""

_REFUSALS = """
ones = np.ones((4, 2), np.float32)
labels, shifts = np.ones(4, np.int32), np.array([1, 2])

def rolled(*arguments, results=((), (0,), (0,), (0,), (0,)), op="RolledSoftmax", **attributes):
    results = [(jnp.float32, shape) for shape in results]
    scalars = dict(gamma=1.0, margin=0.0, t=1.0, negative_weight=1.0, **attributes)
    return jax.jit(lambda *values: call(op, results, *values, **scalars))(*arguments)

assert np.isfinite(rolled(ones, ones, labels, shifts)[0])
for message, arguments, attributes in (
    ("`shifts` must not be 0 modulo the batch size, 4", (ones, ones, labels, shifts * 2), {}),
    ("`item_emb` must have the shape of `user_emb`", (ones, ones[:3], labels, shifts), {}),
    ("`item_emb` must have the dtype", (ones, ones.astype(float), labels, shifts), {}),
    ("`shifts` must have a type", (ones, ones, labels, shifts.astype(np.int32)), {}),
    ("The number of arguments", (ones, ones, labels), {}),
    ("The number of arguments", (ones, ones, labels, shifts, ones), {}),
    ("The number of results", (ones, ones, labels, shifts), dict(results=((),))),
    ("result number 1 must have shape", (ones, ones, labels, shifts), dict(with_grad=True)),
    ("`num_weights` must be 0 or 1", (ones, ones, labels, shifts), dict(num_weights=2)),
    ("must name an op of fastneg", (ones, ones, labels, shifts), dict(op="Nothing")),
):
    try:
        rolled(*arguments, **attributes)
    except Exception as error:
        assert message in str(error), (message, str(error))
    else:
        raise AssertionError(message)
"""


@pytest.fixture(scope="module")
def library() -> str:
    """The library with the handlers, found without importing fastneg, which needs TensorFlow."""
    spec = importlib.util.find_spec("fastneg")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).with_name("libfastneg.so")
    if not path.exists():
        pytest.skip("the native operations were not built")
    return str(path)


@pytest.mark.parametrize("code", [_ROLLED, _SV_SOFTMAX], ids=["rolled_softmax", "sv_softmax"])
def test_values_and_gradients(library: str, code: str) -> None:
    run_fresh_python(_SETUP.format(library=library) + code)


def test_what_does_not_fit_is_refused(library: str) -> None:
    run_fresh_python(_SETUP.format(library=library) + _REFUSALS)
