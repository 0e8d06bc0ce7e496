"""The operations on GPUs, without one: TensorFlow runs them with kernels on the host."""

import contextlib
from collections.abc import Iterator
from typing import Any

import cuda_on_host
import cuda_operations
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
from fastneg import backends
from fastneg.backends.native import cuda, xla
from fastneg.backends.native.library import operations as native_operations

LOSSES = ("rolled_softmax", "shuffled_cosine", "sv_softmax")
# How many inputs of the operations are scalars.
SCALARS = {"Fastneg>RolledSoftmax": 3, "Fastneg>ShuffledCosine": 1, "Fastneg>SvSoftmax": 4}


@pytest.fixture(scope="module")
def operations(
    kernels_of_session: cuda_on_host.Kernels, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The operations for GPUs with the host's kernels, in this process, under a label."""
    if (reason := cuda_operations.why_not()) is not None:
        pytest.skip(reason)
    library = tmp_path_factory.mktemp("operations") / "ops_cuda_on_host.so"
    cuda_operations.build(library, kernels_of_session.path, on_host=True)
    tf.load_library(str(library))


@pytest.fixture
def graph(native: str, operations: None) -> Iterator[tf.Graph]:
    """A graph whose operations of fastneg's have the labelled kernels."""
    with tf.Graph().as_default() as graph, contextlib.ExitStack() as stack:
        labels = {f"Fastneg>{name}": cuda_operations.LABEL for name in cuda_operations.OPERATIONS}
        stack.enter_context(graph._kernel_label_map(labels))
        yield graph
    nodes = [node for node in graph.as_graph_def().node if node.op in labels]
    assert nodes
    assert all(node.attr["_kernel"].s.decode() == cuda_operations.LABEL for node in nodes)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients(graph: tf.Graph, name: str, dtype: np.dtype) -> None:
    arguments = arguments_of(name, dtype)
    results = with_gradients(name)(*map(tf.constant, arguments))
    with tf.compat.v1.Session() as session:
        assert_near_truth(session.run(results), truth_of(name, arguments), dtype)


def test_gradients_of_scores_take_their_place_in_memory(graph: tf.Graph) -> None:
    """And a second reader of the scores still finds them."""
    scores = tf.random.normal([40, 30], seed=1)
    kept = tf.identity(scores)
    loss = fastneg.support_vector_guided_softmax_loss(scores[:, 0], 2.0 * scores)
    (grad,) = tf.gradients(loss, scores)
    with tf.compat.v1.Session() as session:
        scores, kept, grad = session.run([scores, kept, grad])
    np.testing.assert_array_equal(scores, kept)

    def gradient() -> tf.Tensor:
        wide = tf.constant(scores, tf.float64)
        loss = fastneg.support_vector_guided_softmax_loss(wide[:, 0], 2.0 * wide)
        return tf.gradients(loss, wide)[0]

    np.testing.assert_allclose(grad, in_plain_tensorflow(gradient), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("upstream", [0.0, 1.0])
def test_upstream_gradients(graph: tf.Graph, upstream: float) -> None:
    """0 hides a loss that is NaN; 1 leaves the gradients as they are."""
    users = tf.constant(np.full([B, 4], np.nan if upstream == 0.0 else 0.5, np.float32))
    loss = upstream * fastneg.softmax_loss_with_negative_mining(
        users, tf.ones([B, 4]), tf.ones([B]), shifts=[1, 2]
    )
    (grad,) = tf.gradients(loss, users)
    with tf.compat.v1.Session() as session:
        np.testing.assert_allclose(session.run(grad), np.zeros([B, 4]), atol=1e-7)


def test_trainable_scalars(graph: tf.Graph) -> None:
    arguments = arguments_of("rolled_softmax")[:3]
    scalars = [tf.constant(value) for value in (5.0, 0.1, 1.2)]

    def gradients(arguments: list[Any], scalars: list[Any]) -> list[tf.Tensor]:
        gamma, margin, t = scalars
        loss = fastneg.softmax_loss_with_negative_mining(
            *arguments, shifts=[1, 3], gamma=gamma, margin=margin, t=t
        )
        return tf.gradients(loss, scalars)

    with tf.compat.v1.Session() as session:
        grads = session.run(gradients(arguments, scalars))
    wide = [value.astype(np.float64) for value in arguments]
    expected = in_plain_tensorflow(
        lambda: gradients(wide, [tf.constant(value, tf.float64) for value in (5, 0.1, 1.2)])
    )
    np.testing.assert_allclose(grads, expected, rtol=1e-5)


def test_empty_batch(graph: tf.Graph) -> None:
    users = tf.compat.v1.placeholder(tf.float32, [None, 4])
    loss = fastneg.softmax_loss_with_negative_mining(users, users, users[:, 0])
    grads = tf.gradients(loss, users)
    with tf.compat.v1.Session() as session:
        loss, (grad,) = session.run([loss, grads], {users: np.ones([0, 4])})
    assert loss == 0
    assert grad.shape == (0, 4)


BAD_SHAPES = {
    "items": ([8, 4], [8, 5], [8], r"`item_emb` must have the shape of `user_emb`, \[8, 4\]\."),
    "labels": ([8, 4], [8, 4], [7], r"`labels` must have shape \[8\] or \[8, 1\]\. Received: \[7"),
    "batch": ([4, 4], [4, 4], [4], r"`num_negative_samples` must be at least 1 and less than the"),
}


@pytest.mark.parametrize("case", BAD_SHAPES)
def test_bad_shapes_raise_as_on_the_cpu(graph: tf.Graph, case: str) -> None:
    *shapes, message = BAD_SHAPES[case]
    inputs = [tf.compat.v1.placeholder(tf.float32, [None] * len(shape)) for shape in shapes]
    loss = fastneg.softmax_loss_with_negative_mining(*inputs, 4)
    values = [np.ones(shape) for shape in shapes]
    with (
        tf.compat.v1.Session() as session,
        pytest.raises(tf.errors.InvalidArgumentError, match=message),
    ):
        session.run(loss, dict(zip(inputs, values, strict=True)))


def test_what_cuda_refuses(graph: tf.Graph, kernels_of_session: cuda_on_host.Kernels) -> None:
    users = tf.compat.v1.placeholder(tf.float32, [B, 4])
    loss = fastneg.softmax_loss_with_negative_mining(users, users, users[:, 0], shifts=[1, 2])
    values = {users: np.ones([B, 4])}
    message = r"CUDA must accept every call\. Received: cudaErrorNoKernelImageForDevice\."
    with tf.compat.v1.Session() as session:
        kernels_of_session.refuse_next_launch()
        with pytest.raises(tf.errors.InternalError, match=message):
            session.run(loss, values)
        assert np.isfinite(session.run(loss, values))


def test_bad_values_make_the_results_nan(graph: tf.Graph) -> None:
    """Looking at them on the host would make it wait for the GPU at every step."""
    shifts = tf.compat.v1.placeholder(tf.int64, [2])
    users = tf.ones([B, 4])
    loss = fastneg.softmax_loss_with_negative_mining(users, users, users[:, 0], shifts=shifts)
    (grad,) = tf.gradients(loss, users)
    with tf.compat.v1.Session() as session:
        results = session.run([loss, grad], {shifts: [1, B]})
        assert all(np.all(np.isnan(result)) for result in results)
        assert np.isfinite(session.run(loss, {shifts: [1, B - 1]}))


def test_operations_called_directly_with_types_that_do_not_fit(graph: tf.Graph) -> None:
    (grad,) = native_operations().fastneg_scale_grad(
        scale=tf.constant(2.0), unit_grads=[tf.ones([3])], T=tf.float64
    )
    with (
        tf.compat.v1.Session() as session,
        pytest.raises(tf.errors.InvalidArgumentError, match="`scale` must be float64 exactly when"),
    ):
        session.run(grad)


def test_operations_called_directly_with_too_many_inputs(graph: tf.Graph) -> None:
    users, ones, shifts = tf.ones([B, 4]), tf.ones([B]), tf.constant([1, 2], tf.int64)
    loss = native_operations().fastneg_rolled_softmax(
        users, users, ones, shifts, 1.0, 0.0, 1.0, [ones, ones], [], []
    )[0]
    message = r"`num_weights` must be 0 or 1\. Received: 2\."
    with (
        tf.compat.v1.Session() as session,
        pytest.raises(tf.errors.InvalidArgumentError, match=message),
    ):
        session.run(loss)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", LOSSES)
def test_graphs_for_gpus_keep_numbers_on_the_host(
    native: str, monkeypatch: pytest.MonkeyPatch, name: str, dtype: Any
) -> None:
    """TensorFlow would put constants beside the loss, and copy them to the host at each step."""
    monkeypatch.setattr(cuda.library, "why_not_loaded", lambda: None)
    arguments = [tf.constant(value) for value in arguments_of(name, dtype)]
    step = tf.function(with_gradients(name)).get_concrete_function(*arguments)
    (loss,) = (op for op in step.graph.get_operations() if op.type in SCALARS)
    devices = [scalar.device for scalar in loss.inputs if scalar.shape.rank == 0]
    assert len(devices) == SCALARS[loss.type]
    assert all(device.endswith("CPU:0") for device in devices)
    np.testing.assert_array_equal(step(*arguments)[0], with_gradients(name)(*arguments)[0])


def test_xla_may_compile_for_gpus(native: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the operations on GPUs and inside XLA are loaded, for the losses that have kernels."""
    devices = [*tf.config.list_logical_devices(), tf.config.LogicalDevice("/device:GPU:0", "GPU")]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda: devices)
    monkeypatch.setattr(xla.library, "why_not_loaded", lambda: None)
    for problem, allowed in ((None, True), ("not built", False)):
        monkeypatch.setattr(cuda.library, "why_not_loaded", lambda problem=problem: problem)
        assert backends.load("native").runs_in_xla("sv_softmax") == allowed
        assert not backends.load("native").runs_in_xla("pairwise_logistic")
