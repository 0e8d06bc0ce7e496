"""What only the native backend does: registered operations, SavedModels, gradients on demand."""

import pathlib

import evaluation
import numpy as np
import problems
import pytest
import tensorflow as tf
from operations import record_with_grad, with_grad
from processes import run_python

import fastneg

LOSS = fastneg.softmax_loss_with_negative_mining
PROBLEM = problems.make(16, 3, 6)
_SPECS = [tf.TensorSpec([None, 6]), tf.TensorSpec([None, 6]), tf.TensorSpec([None], tf.int64)]


pytestmark = pytest.mark.usefixtures("native")


class _Model(tf.Module):
    @tf.function(autograph=False, input_signature=_SPECS)
    def __call__(self, user_emb: tf.Tensor, item_emb: tf.Tensor, shifts: tf.Tensor) -> tf.Tensor:
        return LOSS(user_emb, item_emb, tf.ones(tf.shape(user_emb)[:1]), shifts=shifts)


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("saved_model")
    with fastneg.use_backend("native"):
        tf.saved_model.save(_Model(), str(path))
    return path


def _arguments() -> list[tf.Tensor]:
    return [
        tf.constant(PROBLEM.user_emb),
        tf.constant(PROBLEM.item_emb),
        tf.constant(PROBLEM.shifts, tf.int64),
    ]


def test_saved_model_loads_and_differentiates(saved_model: pathlib.Path) -> None:
    arguments = _arguments()
    results = []
    for model in (_Model(), tf.saved_model.load(str(saved_model))):
        with tf.GradientTape() as tape:
            tape.watch(arguments[:2])
            loss = model(*arguments)
        results.append((loss, *tape.gradient(loss, arguments[:2])))
    for original, restored in zip(*results, strict=True):
        np.testing.assert_array_equal(restored, original)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
    ("changed", "value", "message"),
    [
        (0, tf.ones([15, 6]), r"`item_emb` must have the shape of `user_emb`, \[15, 6\]"),
        (1, tf.ones([17, 6]), r"`item_emb` must have the shape of `user_emb`, \[16, 6\]"),
        (2, tf.constant([16], tf.int64), r"`shifts` must not be 0 modulo the batch size, 16"),
        (2, tf.range(1, 17, dtype=tf.int64), r"less than the batch size, 16\. Received: 16"),
        (2, tf.zeros([0], tf.int64), r"must be at least 1"),
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
        user_emb = tf.random.normal([8, 6])
        with tf.GradientTape() as tape:
            tape.watch(user_emb)
            loss = model(user_emb, user_emb, tf.constant([1, 2], tf.int64))
        assert tape.gradient(loss, user_emb).shape == [8, 6]
    """
    run_python(code)


def test_a_graph_that_is_not_differentiated_computes_no_gradient() -> None:
    user_emb = tf.Variable(PROBLEM.user_emb)
    function = tf.function(
        lambda: LOSS(user_emb, PROBLEM.item_emb, PROBLEM.labels), autograph=False
    )
    concrete = function.get_concrete_function()
    assert with_grad(concrete, "RolledSoftmax") == [False]
    with tf.GradientTape() as tape:
        loss = function()
    assert tape.gradient(loss, user_emb) is not None
    # What runs without a tape is still the function without gradients.
    assert with_grad(concrete, "RolledSoftmax") == [False]


def test_a_graph_that_is_differentiated_computes_value_and_gradient_at_once() -> None:
    @tf.function(autograph=False)
    def gradient(user_emb: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(user_emb)
            loss = LOSS(user_emb, PROBLEM.item_emb, PROBLEM.labels)
        return tape.gradient(loss, user_emb)

    concrete = gradient.get_concrete_function(tf.TensorSpec([16, 6]))
    assert with_grad(concrete, "RolledSoftmax") == [True]
    assert concrete.outputs[0].shape == [16, 6]


@pytest.mark.parametrize(
    ("watch", "expected"), [(None, False), ("other", False), ("item_emb", True)]
)
def test_eager_calls_compute_gradients_only_for_a_tape(
    monkeypatch: pytest.MonkeyPatch, watch: str | None, expected: bool
) -> None:
    calls = record_with_grad(monkeypatch, "fastneg_rolled_softmax")
    tensors = {"item_emb": tf.constant(PROBLEM.item_emb), "other": tf.constant(0.0)}
    with tf.GradientTape() as tape:
        if watch:
            tape.watch(tensors[watch])
        LOSS(PROBLEM.user_emb, tensors["item_emb"], PROBLEM.labels)
    assert calls == [expected]


def test_operation_called_directly_under_a_tape() -> None:
    """A caller may evade `rolled_softmax`; the gradient then runs the operation once more."""
    from fastneg.backends.native.library import operations

    problem = problems.with_everything(PROBLEM)
    expected = evaluation.run(LOSS, problem)
    options = problem.options
    user_emb, weights = tf.constant(problem.user_emb), tf.constant(options["weights"])
    with tf.GradientTape() as tape:
        tape.watch([user_emb, weights])
        loss = (
            operations()
            .fastneg_rolled_softmax(
                user_emb,
                problem.item_emb,
                problem.labels,
                problem.shifts,
                options["gamma"],
                options["margin"],
                options["t"],
                1.0,
                [weights],
                [options["candidate_sampling_probability"]],
                [options["candidate_ids"]],
            )
            .loss
        )
    grad_user, grad_weights = tape.gradient(loss, [user_emb, weights])
    np.testing.assert_array_equal(grad_user, expected.grad_user)
    np.testing.assert_array_equal(grad_weights, expected.grad_weights)


def test_version_1_session() -> None:
    expected = evaluation.run(LOSS, PROBLEM)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        user_emb = tf.constant(PROBLEM.user_emb)
        loss = LOSS(
            user_emb, PROBLEM.item_emb, PROBLEM.labels, shifts=PROBLEM.shifts, **PROBLEM.options
        )
        value, gradient = session.run([loss, tf.gradients(loss, user_emb)[0]])
    np.testing.assert_array_equal(value, expected.loss)
    np.testing.assert_array_equal(gradient, expected.grad_user)
