"""What only the native backend does: registered operations, SavedModels, gradients on demand."""

import os
import pathlib

import numpy as np
import pytest
import sampled_problems
import tensorflow as tf
from operations import record_with_grad, with_grad
from processes import assert_survives_fork, run_python

import fastneg

LOSS = fastneg.sampled_softmax_loss
V, S, D = 30, 6, 5
_TESTS = pathlib.Path(__file__).parent


pytestmark = pytest.mark.usefixtures("native")


class _Model(tf.Module):
    """Holds its table; samples come from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.table = tf.Variable(sampled_problems.make(4, S, D, V).weights)

    @tf.function(
        autograph=False,
        input_signature=[
            tf.TensorSpec([None, D]),
            tf.TensorSpec([None, 1], tf.int64),
            tf.TensorSpec([None], tf.int64),
        ],
    )
    def __call__(self, inputs: tf.Tensor, labels: tf.Tensor, sampled: tf.Tensor) -> tf.Tensor:
        return LOSS(self.table, None, labels, inputs, S, V, 1, (sampled, 0.5, 0.25))


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("saved_model")
    with fastneg.use_backend("native"):
        tf.saved_model.save(_Model(), str(path))
    return path


def _arguments() -> list[tf.Tensor]:
    problem = sampled_problems.make(4, S, D, V)
    values = (problem.inputs, problem.labels, problem.sampled)
    return [tf.constant(value) for value in values]


def test_saved_model_loads_and_differentiates(saved_model: pathlib.Path) -> None:
    arguments = _arguments()
    results = []
    for model in (_Model(), tf.saved_model.load(str(saved_model))):
        with tf.GradientTape() as tape:
            tape.watch(arguments[0])
            loss = model(*arguments)
        grad_table, grad_inputs = tape.gradient(loss, [model.table, arguments[0]])
        results.append((loss, tf.convert_to_tensor(grad_table), grad_inputs))
    for original, restored in zip(*results, strict=True):
        np.testing.assert_array_equal(restored, original)


@pytest.mark.parametrize(
    ("changed", "value", "message"),
    [
        (1, tf.constant([[0], [1], [2], [V]], tf.int64), r"`labels` must be in 0 \.\. 29.* 30\."),
        (1, tf.constant([[0], [-1], [2], [3]], tf.int64), r"`labels` must be in 0 \.\. 29.* -1\."),
        (1, tf.zeros([3, 1], tf.int64), r"`labels` must have shape"),
        (2, tf.constant([0, 1, 2, 3, 4, V], tf.int64), r"`sampled_values\[0\]` must be in 0"),
        (2, tf.constant([0, 1, 2, -3, 4, 5], tf.int64), r"`sampled_values\[0\]` must be in 0"),
        (2, tf.zeros([0], tf.int64), r"`sampled_values\[0\]` must have shape"),
        (2, tf.zeros([S - 1], tf.int64), r"`sampled_values\[2\]` must have shape"),
    ],
)
def test_saved_model_with_bad_values(
    saved_model: pathlib.Path, changed: int, value: tf.Tensor, message: str
) -> None:
    model = tf.saved_model.load(str(saved_model))
    arguments = _arguments()
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        model(*[value if index == changed else good for index, good in enumerate(arguments)])
    assert np.all(np.isfinite(model(*arguments)))


def test_saved_model_in_a_process_that_only_imports(saved_model: pathlib.Path) -> None:
    code = f"""
        import tensorflow as tf
        import fastneg
        model = tf.saved_model.load({str(saved_model)!r})
        inputs = tf.random.normal([8, {D}])
        with tf.GradientTape() as tape:
            loss = model(inputs, tf.zeros([8, 1], tf.int64), tf.range({S}, dtype=tf.int64))
        assert tape.gradient(loss, model.table).values.shape == [{S}, {D}]
    """
    run_python(code)


def _losses(table: tf.Variable) -> tf.Tensor:
    problem = sampled_problems.make(4, S, D, V)
    return LOSS(table, None, problem.labels, problem.inputs, S, V)


def test_a_graph_that_is_not_differentiated_computes_no_gradient() -> None:
    table = tf.Variable(tf.ones([V, D]))
    function = tf.function(lambda: _losses(table), autograph=False)
    assert with_grad(function.get_concrete_function(), "SampledSoftmax") == [False]


def test_a_graph_that_is_differentiated_computes_value_and_gradient_at_once() -> None:
    table = tf.Variable(tf.ones([V, D]))

    @tf.function(autograph=False)
    def gradient() -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = _losses(table)
        return tape.gradient(loss, table).values

    concrete = gradient.get_concrete_function()
    assert with_grad(concrete, "SampledSoftmax") == [True]
    assert concrete.outputs[0].shape.as_list() == [None, D]


@pytest.mark.parametrize("follow", [False, True])
def test_eager_calls_compute_gradients_only_for_a_tape(
    monkeypatch: pytest.MonkeyPatch, follow: bool
) -> None:
    calls = record_with_grad(monkeypatch, "fastneg_sampled_softmax")
    table = tf.Variable(tf.ones([V, D]), trainable=False)
    with tf.GradientTape() as tape:
        if follow:
            tape.watch(table)
        _losses(table)
    assert calls == [follow]


def test_version_1_session() -> None:
    problem = sampled_problems.make(4, S, D, V)
    expected = sampled_problems.run(LOSS, problem)
    samples = (problem.sampled, problem.true_expected_count, problem.sampled_expected_count)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        inputs = tf.constant(problem.inputs)
        loss = LOSS(problem.weights, problem.biases, problem.labels, inputs, S, V, 1, samples)
        value, gradient = session.run([loss, tf.gradients(loss, inputs)[0]])
    np.testing.assert_array_equal(value, expected.loss)
    np.testing.assert_array_equal(gradient, expected.grad_inputs)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="This system has no fork.")
def test_fork_after_use() -> None:
    assert_survives_fork(
        """
        import fastneg
        import sampled_problems
        problem = sampled_problems.make(1030, 200, 33, 500)
        fastneg.use_backend("native")
        def loss():
            return sampled_problems.run(fastneg.sampled_softmax_loss, problem).loss.tobytes()
        """
    )


def test_two_threads_at_once() -> None:
    import concurrent.futures

    problem = sampled_problems.make(600, 300, 33, 500)
    expected = sampled_problems.run(LOSS, problem)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: sampled_problems.run(LOSS, problem), range(8)))
    for result in results:
        for name, value, same in zip(result._fields, result, expected, strict=True):
            np.testing.assert_array_equal(value, same, err_msg=name)
