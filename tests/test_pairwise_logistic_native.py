"""What only the native backend does: registered operations, SavedModels, gradients on demand."""

import os
import pathlib

import numpy as np
import pairwise_problems as problems
import pytest
import tensorflow as tf
from operations import record_with_grad, with_grad
from processes import assert_survives_fork, run_python

import fastneg

LOSS = fastneg.pairwise_loss
PROBLEM = problems.with_everything(problems.make(400, num_labels=3), 2)
_TESTS = pathlib.Path(__file__).parent
_SPECS = [
    tf.TensorSpec(None),
    tf.TensorSpec(None),
    tf.TensorSpec(None, tf.int64),
    tf.TensorSpec(None),
    tf.TensorSpec(None),
]


pytestmark = pytest.mark.usefixtures("native")


class _Model(tf.Module):
    @tf.function(autograph=False, input_signature=_SPECS)
    def __call__(
        self,
        labels: tf.Tensor,
        logits: tf.Tensor,
        session_ids: tf.Tensor,
        weights: tf.Tensor,
        temperature: tf.Tensor,
    ) -> tf.Tensor:
        return LOSS(labels, logits, session_ids, weights=weights, temperature=temperature)


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("saved_model")
    with fastneg.use_backend("native"):
        tf.saved_model.save(_Model(), str(path))
    return path


def _arguments() -> list[tf.Tensor]:
    options = PROBLEM.options
    return [
        tf.constant(PROBLEM.labels),
        tf.constant(PROBLEM.logits),
        tf.constant(options["session_ids"], tf.int64),
        tf.constant(options["weights"]),
        tf.constant(options["temperature"], tf.float32),
    ]


def test_saved_model_loads_and_differentiates(saved_model: pathlib.Path) -> None:
    arguments = _arguments()
    sources = [arguments[1], *arguments[3:]]
    results = []
    for model in (_Model(), tf.saved_model.load(str(saved_model))):
        with tf.GradientTape() as tape:
            tape.watch(sources)
            loss = model(*arguments)
        results.append((loss, *tape.gradient(loss, sources)))
    for original, restored in zip(*results, strict=True):
        np.testing.assert_array_equal(restored, original)


@pytest.mark.parametrize(
    ("changed", "value", "message"),
    [
        (0, tf.ones([399]), r"`labels` must have shape \[400\] or \[400, 1\]\. Received: \[399\]"),
        (1, tf.ones([2, 2]), r"`logits` must have shape \[batch_size\] or \[batch_size, 1\]"),
        (1, tf.ones([401]), r"`labels` must have shape \[401\]"),
        (1, tf.ones([]), r"`logits` must have shape .* Received: \[\]"),
        (2, tf.ones([5], tf.int64), r"`session_ids` must have shape \[400\]"),
        (3, tf.ones([400, 2]), r"`weights` must have shape \[400\] or \[400, 1\]"),
        (4, tf.ones([1]), r"`temperature` must be a scalar"),
        (4, tf.constant(0.0), r"`temperature` must not be 0"),
    ],
)
def test_saved_model_with_bad_values(
    saved_model: pathlib.Path, changed: int, value: tf.Tensor, message: str
) -> None:
    model = tf.saved_model.load(str(saved_model))
    arguments = _arguments()
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        model(*[value if index == changed else good for index, good in enumerate(arguments)])
    assert np.isfinite(model(*arguments))


def test_saved_model_in_a_process_that_only_imports(saved_model: pathlib.Path) -> None:
    code = f"""
        import tensorflow as tf
        import fastneg
        model = tf.saved_model.load({str(saved_model)!r})
        logits = tf.random.normal([8])
        labels = tf.range(8.0)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = model(labels, logits, tf.zeros([8], tf.int64), tf.ones([8]), tf.ones([]))
        assert tape.gradient(loss, logits).shape == [8]
    """
    run_python(code)


def test_a_graph_that_is_not_differentiated_computes_no_gradient() -> None:
    logits = tf.Variable(PROBLEM.logits)
    function = tf.function(lambda: LOSS(PROBLEM.labels, logits), autograph=False)
    concrete = function.get_concrete_function()
    assert with_grad(concrete, "PairwiseLogistic") == [False]
    with tf.GradientTape() as tape:
        loss = function()
    assert tape.gradient(loss, logits) is not None
    # What runs without a tape is still the function without gradients.
    assert with_grad(concrete, "PairwiseLogistic") == [False]


def test_a_graph_that_is_differentiated_computes_value_and_gradient_at_once() -> None:
    @tf.function(autograph=False)
    def gradient(logits: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = LOSS(PROBLEM.labels, logits)
        return tape.gradient(loss, logits)

    concrete = gradient.get_concrete_function(tf.TensorSpec([400]))
    assert with_grad(concrete, "PairwiseLogistic") == [True]
    assert concrete.outputs[0].shape == [400]


@pytest.mark.parametrize(("watch", "expected"), [(None, False), ("other", False), ("logits", True)])
def test_eager_calls_compute_gradients_only_for_a_tape(
    monkeypatch: pytest.MonkeyPatch, watch: str | None, expected: bool
) -> None:
    calls = record_with_grad(monkeypatch, "fastneg_pairwise_logistic")
    tensors = {"logits": tf.constant(PROBLEM.logits), "other": tf.constant(0.0)}
    with tf.GradientTape() as tape:
        if watch:
            tape.watch(tensors[watch])
        LOSS(PROBLEM.labels, tensors["logits"])
    assert calls == [expected]


def test_operation_called_directly_under_a_tape() -> None:
    """A caller may evade the backend; the gradient then runs the operation once more."""
    from fastneg.backends.native.library import operations

    expected = problems.run(LOSS, PROBLEM)
    labels, logits, session_ids, weights, temperature = _arguments()
    margin = tf.constant(PROBLEM.options["margin"])
    with tf.GradientTape() as tape:
        tape.watch([logits, weights])
        loss = (
            operations()
            .fastneg_pairwise_logistic(
                labels, logits, margin, temperature, [session_ids], [weights]
            )
            .loss
        )
    grad_logits, grad_weights = tape.gradient(loss, [logits, weights])
    np.testing.assert_array_equal(grad_logits, expected.grad_logits)
    np.testing.assert_array_equal(grad_weights, expected.grad_weights)


def test_version_1_session() -> None:
    expected = problems.run(LOSS, problems.Problem(PROBLEM.labels, PROBLEM.logits, {}))
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        logits = tf.constant(PROBLEM.logits)
        loss = LOSS(PROBLEM.labels, logits)
        value, gradient = session.run([loss, tf.gradients(loss, logits)[0]])
    np.testing.assert_array_equal(value, expected.loss)
    np.testing.assert_array_equal(gradient, expected.grad_logits)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="This system has no fork.")
def test_fork_after_use() -> None:
    assert_survives_fork(
        """
        import fastneg
        import pairwise_problems as problems
        problem = problems.make(9000, num_labels=3)
        def loss():
            return fastneg.pairwise_loss(problem.labels, problem.logits).numpy()
        fastneg.use_backend("native")
        """
    )
