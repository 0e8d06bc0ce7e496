"""Fixtures for all tests. TensorFlow is imported late: the core's tests run without it."""

import os
from collections.abc import Iterator

import pytest
from cuda_fixtures import kernels, kernels_of_session  # noqa: F401

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Or plain TensorFlow on a GPU would round the factors of float32 products to 10 bits.
os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")

BACKENDS = ("native", "numba", "reference")


def _chosen(name: str) -> Iterator[str]:
    """Chooses a backend for the duration of a test; skips the test where it does not load."""
    import fastneg

    try:
        choice = fastneg.use_backend(name)
    except fastneg.BackendUnavailableError as error:
        pytest.skip(str(error))
    with choice:
        yield name


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend in turn."""
    yield from _chosen(request.param)


@pytest.fixture(params=[name for name in BACKENDS if name != "reference"])
def fused_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend that computes value and gradients in one go."""
    yield from _chosen(request.param)


@pytest.fixture(params=["reference", "native"])
def xla_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend that can run where XLA compiles."""
    if request.param == "native":
        _skip_without_operations_for_xla()
    yield from _chosen(request.param)


@pytest.fixture
def native_in_xla() -> Iterator[str]:
    """The native backend with its operations for XLA."""
    _skip_without_operations_for_xla()
    yield from _chosen("native")


def _skip_without_operations_for_xla() -> None:
    import fastneg

    reason = fastneg.build_info()["xla"]
    if reason != "loaded":
        pytest.skip(f"no operations for XLA: {reason}")


@pytest.fixture
def on_cpu() -> Iterator[None]:
    """For tests of errors about values, which kernels on a GPU do not look at."""
    import tensorflow as tf

    with tf.device("CPU:0"):
        yield


@pytest.fixture
def reference() -> Iterator[str]:
    """The reference backend."""
    yield from _chosen("reference")


@pytest.fixture
def native() -> Iterator[str]:
    """The native backend."""
    yield from _chosen("native")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Has `isa` stand for each instruction set that this machine has.

    The core is asked only where a test takes the fixture: not every build has one. The sets that
    multiply bfloat16 have other kernels for the in-batch loss alone.
    """
    marks = metafunc.definition.iter_markers("parametrize")
    if "isa" not in metafunc.fixturenames or any("isa" in mark.args[0] for mark in marks):
        return
    from fastneg import _core

    names = _core.available_isas()
    if not metafunc.module.__name__.startswith("test_in_batch_softmax"):
        names = [name for name in names if not name.endswith(("-bf16", "-amx"))]
    metafunc.parametrize("isa", names, indirect=True)


@pytest.fixture
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """The instruction set that the core uses for the duration of a test."""
    from fastneg import _core

    before = _core.active_isa()
    _core.set_isa(request.param)
    yield request.param
    _core.set_isa(before)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Inside XLA the choice of numba comes to the reference, whose cases there are tested anyway.

    test_numba_in_xla.py shows that it does so.
    """
    repeated = [item for item in items if _is_numba_in_xla(item)]
    config.hook.pytest_deselected(items=repeated)
    items[:] = [item for item in items if not _is_numba_in_xla(item)]


def _is_numba_in_xla(item: pytest.Item) -> bool:
    call = getattr(item, "callspec", None)
    if call is None or call.params.get("mode") != "xla":
        return False
    return "numba" in (call.params.get("backend"), call.params.get("fused_backend"))
