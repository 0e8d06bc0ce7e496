"""The operations on GPUs, without one: XLA calls their handler with the host's kernels."""

import ctypes
from typing import Any

import cuda_on_host
import numpy as np
import pytest
import tensorflow as tf
from case_gradients import (
    TOLERANCES,
    arguments_of,
    assert_near_truth,
    in_plain_tensorflow,
    truth_of,
    with_gradients,
)
from small_cases import B

import fastneg
from fastneg import _tensorflow, backends
from fastneg.backends.native import cuda, custom_call, xla
from fastneg.backends.native.symbols import symbols

LOSSES = ("rolled_softmax", "shuffled_cosine", "sv_softmax")
TARGET = "fastneg_cuda_on_host"
JIT = [pytest.param(False, id="outside"), pytest.param(True, id="inside")]


@pytest.fixture(scope="module")
def handler(kernels_of_session: cuda_on_host.Kernels) -> None:
    """The handler for CUDA, registered for the host with the host's kernels."""
    if (problem := xla.why_not_loaded()) is not None:
        pytest.skip(problem)
    assert symbols().FastnegLoadCuda(str(kernels_of_session.path).encode()) is None
    interface = ctypes.c_void_p(_tensorflow.xla_handler_interface())
    register = symbols().FastnegRegisterXlaHandler
    assert register(interface, TARGET.encode(), b"Host", True) is None


@pytest.fixture
def on_gpu(native: str, handler: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call goes the way that it goes on a machine with a GPU."""
    monkeypatch.setattr(custom_call, "TARGET", TARGET)
    monkeypatch.setattr(xla, "calls", lambda loss: loss in LOSSES)
    monkeypatch.setattr(xla, "is_the_way", lambda loss: loss in LOSSES)


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("jit", JIT)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients(name: str, dtype: np.dtype, jit: bool) -> None:
    arguments = arguments_of(name, dtype)
    step = tf.function(with_gradients(name), jit_compile=jit)
    loss, grads = step(*map(tf.constant, arguments))
    results = (loss.numpy(), [grad.numpy() for grad in grads])
    assert_near_truth(results, truth_of(name, arguments), dtype)


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("name", LOSSES)
def test_called_eagerly(name: str) -> None:
    arguments = arguments_of(name)
    loss, grads = with_gradients(name)(*map(tf.constant, arguments))
    results = (loss.numpy(), [grad.numpy() for grad in grads])
    assert_near_truth(results, truth_of(name, arguments), arguments[0].dtype)


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("name", LOSSES)
def test_the_kernels_are_those_for_cuda(
    name: str, kernels_of_session: cuda_on_host.Kernels
) -> None:
    arguments = [tf.constant(value) for value in arguments_of(name)]
    message = r"CUDA must accept every call\. Received: cudaErrorNoKernelImageForDevice\."
    step = tf.function(with_gradients(name))
    kernels_of_session.refuse_next_launch()
    with pytest.raises(tf.errors.InternalError, match=message):
        step(*arguments)
    assert np.isfinite(step(*arguments)[0])


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("upstream", [0.0, 1.0])
def test_upstream_gradients(upstream: float) -> None:
    """0 hides a loss that is NaN; 1 leaves the gradients as they are."""
    users = tf.constant(np.full([B, 4], np.nan if upstream == 0.0 else 0.5, np.float32))

    @tf.function
    def gradient() -> tf.Tensor:
        loss = upstream * fastneg.softmax_loss_with_negative_mining(
            users, tf.ones([B, 4]), tf.ones([B]), shifts=[1, 2]
        )
        return tf.gradients(loss, users)[0]

    np.testing.assert_allclose(gradient(), np.zeros([B, 4]), atol=1e-7)


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("jit", JIT)
def test_trainable_scalars(jit: bool, kernels_of_session: cuda_on_host.Kernels) -> None:
    """They stay on the device."""
    waits = kernels_of_session.num_waits()
    arguments = arguments_of("rolled_softmax")[:3]
    scalars = [tf.constant(value) for value in (5.0, 0.1, 1.2)]

    def gradients(arguments: list[Any], scalars: list[Any]) -> list[tf.Tensor]:
        gamma, margin, t = scalars
        loss = fastneg.softmax_loss_with_negative_mining(
            *arguments, shifts=[1, 3], gamma=gamma, margin=margin, t=t
        )
        return tf.gradients(loss, scalars)

    step = tf.function(lambda *scalars: gradients(arguments, list(scalars)), jit_compile=jit)
    wide = [value.astype(np.float64) for value in arguments]
    expected = in_plain_tensorflow(
        lambda: gradients(wide, [tf.constant(value, tf.float64) for value in (5, 0.1, 1.2)])
    )
    np.testing.assert_allclose(step(*scalars), expected, rtol=1e-5)
    assert kernels_of_session.num_waits() == waits


@pytest.mark.usefixtures("on_gpu")
def test_empty_batch() -> None:
    @tf.function(input_signature=[tf.TensorSpec([None, 4])])
    def step(users: tf.Tensor) -> list[tf.Tensor]:
        loss = fastneg.softmax_loss_with_negative_mining(users, users, users[:, 0])
        return [loss, *tf.gradients(loss, users)]

    loss, grad = step(tf.ones([0, 4]))
    assert loss == 0
    assert grad.shape == (0, 4)


BAD_SHAPES = {
    "items": ([8, 4], [8, 5], [8], r"`item_emb` must have the shape of `user_emb`, \[8, 4\]\."),
    "labels": ([8, 4], [8, 4], [7], r"`labels` must have shape \[8\] or \[8, 1\]\. Received: \[7"),
    "batch": ([4, 4], [4, 4], [4], r"`num_negative_samples` must be at least 1 and less than the"),
}


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("case", BAD_SHAPES)
def test_bad_shapes_raise_as_on_the_cpu(case: str) -> None:
    *shapes, message = BAD_SHAPES[case]
    loss = tf.function(
        lambda *inputs: fastneg.softmax_loss_with_negative_mining(*inputs, 4),
        input_signature=[tf.TensorSpec([None] * len(shape)) for shape in shapes],
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        loss(*map(tf.ones, shapes))


@pytest.mark.usefixtures("on_gpu")
def test_bad_values_make_the_results_nan() -> None:
    """Looking at them on the host would make it wait for the GPU at every step."""
    users = tf.ones([B, 4])

    @tf.function
    def step(shifts: tf.Tensor) -> list[tf.Tensor]:
        loss = fastneg.softmax_loss_with_negative_mining(users, users, users[:, 0], shifts=shifts)
        return [loss, *tf.gradients(loss, users)]

    assert all(np.all(np.isnan(result)) for result in step(tf.constant([1, B], tf.int64)))
    assert np.isfinite(step(tf.constant([1, B - 1], tf.int64))[0])


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow says that it sees one."""
    devices = [*tf.config.list_logical_devices(), tf.config.LogicalDevice("/device:GPU:0", "GPU")]
    monkeypatch.setattr(
        tf.config,
        "list_logical_devices",
        lambda kind=None: [device for device in devices if kind in (None, device.device_type)],
    )


@pytest.mark.usefixtures("on_gpu", "a_gpu")
@pytest.mark.parametrize("loss", LOSSES)
def test_nobody_looks_at_trained_scalars(loss: str) -> None:
    """Not even for a temperature that is 0, which gives NaN. Checks run on the host."""
    rows, scores = tf.random.normal([B, 4]), tf.random.normal([B, 3])
    rest = {"margin": tf.constant(0.1), "t": tf.constant(1.2)}

    @tf.function
    def compute(scalar: tf.Tensor) -> tf.Tensor:
        if loss == "rolled_softmax":
            return fastneg.softmax_loss_with_negative_mining(
                rows, rows, tf.ones([B]), 3, gamma=scalar, **rest
            )
        if loss == "shuffled_cosine":
            return fastneg.negative_cosine_loss(rows, rows, 3, t=scalar)
        return fastneg.support_vector_guided_softmax_loss(
            scores[:, 0], scores, smooth=scalar, threshold=scalar, **rest
        )

    operations = compute.get_concrete_function(tf.constant(2.0)).graph.get_operations()
    assert not {"Assert", "If", "StatelessIf"} & {operation.type for operation in operations}
    assert np.isfinite(compute(tf.constant(2.0)))
    if loss == "shuffled_cosine":
        assert np.isnan(compute(tf.constant(0.0)))


@pytest.mark.usefixtures("a_gpu")
def test_where_losses_go_on_a_machine_with_a_gpu(
    native: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where CUDA's kernels are loaded, through XLA, for the losses that have such kernels."""
    monkeypatch.setattr(xla, "why_not_loaded", lambda: None)
    for problem, allowed in ((None, True), ("not built", False)):
        monkeypatch.setattr(cuda, "why_not_loaded", lambda problem=problem: problem)
        assert backends.load("native").runs_in_xla("sv_softmax") == allowed
        assert xla.is_the_way("sv_softmax") == allowed
        assert xla.platforms("sv_softmax") == (["CPU", "CUDA"] if allowed else ["CPU"])
        assert not backends.load("native").runs_in_xla("pairwise_logistic")
        assert not xla.is_the_way("pairwise_logistic")


@pytest.mark.parametrize("name", LOSSES)
def test_one_trace_for_both_platforms(
    native: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """On the CPU of a machine with a GPU."""
    if (problem := xla.why_not_loaded()) is not None:
        pytest.skip(problem)
    monkeypatch.setattr(xla, "is_the_way", lambda loss: True)
    monkeypatch.setattr(xla, "platforms", lambda loss: ["CPU", "CUDA"])
    arguments = arguments_of(name)
    for jit in (False, True):
        step = tf.function(with_gradients(name), jit_compile=jit)
        loss, grads = step(*map(tf.constant, arguments))
        results = (loss.numpy(), [grad.numpy() for grad in grads])
        assert_near_truth(results, truth_of(name, arguments), arguments[0].dtype)
