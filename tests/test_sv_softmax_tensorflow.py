"""Inside TensorFlow: functions, control flow, XLA, threads, SavedModel."""

import pathlib
import threading
from typing import Any

import numpy as np
import pytest
import sv_softmax_cases as cases
import tensorflow as tf
from processes import run_python

import fastneg

LOSS = fastneg.support_vector_guided_softmax_loss
CASE = cases.make(24, 5)
_SPECS = [tf.TensorSpec([None]), tf.TensorSpec([None, None]), tf.TensorSpec([None])]


def _loss(neg_scores: tf.Tensor, **options: Any) -> tf.Tensor:
    return LOSS(CASE.pos_score, neg_scores, **{**CASE.options, **options})


@pytest.fixture
def expected(backend: str) -> cases.Result:
    return cases.run(LOSS, CASE)


def _assert_gradient(actual: Any, expected: cases.Result, factor: float = 1.0) -> None:
    desired = factor * expected.grad_neg
    np.testing.assert_allclose(actual, desired, rtol=1e-4, atol=1e-5 * np.max(np.abs(desired)))


def test_result_dtype_and_static_shape(backend: str) -> None:
    for dtype, name in ((np.float16, "float32"), (np.float32, "float32"), (np.float64, "float64")):
        loss = LOSS(CASE.pos_score.astype(dtype), CASE.neg_scores.astype(dtype))
        assert loss.dtype.name == name
        traced = tf.function(LOSS, autograph=False).get_concrete_function(
            tf.TensorSpec([None, 1], dtype), tf.TensorSpec([None, 7], dtype)
        )
        assert traced.outputs[0].dtype.name == name
        assert traced.outputs[0].shape == []


def test_static_shape_of_gradients(backend: str) -> None:
    @tf.function(autograph=False)
    def gradients(pos_score: tf.Tensor, neg_scores: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch([pos_score, neg_scores])
            loss = LOSS(pos_score, neg_scores)
        return tape.gradient(loss, [pos_score, neg_scores])

    traced = gradients.get_concrete_function(tf.TensorSpec([6, 1]), tf.TensorSpec([6, 3]))
    assert [output.shape for output in traced.outputs] == [[6, 1], [6, 3]]


def test_tape_outside_of_a_function(expected: cases.Result) -> None:
    neg_scores = tf.Variable(CASE.neg_scores)
    function = tf.function(lambda: _loss(neg_scores), autograph=False)
    for _ in range(2):
        with tf.GradientTape() as tape:
            loss = function()
        _assert_gradient(tape.gradient(loss, neg_scores), expected)
        np.testing.assert_allclose(function(), expected.loss, rtol=1e-6)


@pytest.mark.parametrize("outside", [False, True], ids=["tape inside", "tape outside"])
def test_while_loop(expected: cases.Result, outside: bool) -> None:
    def total(neg_scores: tf.Tensor) -> tf.Tensor:
        return tf.while_loop(
            lambda step, _: step < 3,
            lambda step, total: (step + 1, total + _loss(neg_scores)),
            (0, tf.constant(0.0)),
        )[1]

    def gradient(neg_scores: tf.Tensor) -> tf.Tensor:
        function = tf.function(total, autograph=False) if outside else total
        with tf.GradientTape() as tape:
            tape.watch(neg_scores)
            value = function(neg_scores)
        return tape.gradient(value, neg_scores)

    function = gradient if outside else tf.function(gradient, autograph=False)
    _assert_gradient(function(tf.constant(CASE.neg_scores)), expected, 3.0)


def test_scores_that_are_used_again(expected: cases.Result) -> None:
    """Their memory is not taken for the gradient before everybody has read them."""

    @tf.function(autograph=False)
    def compute(half: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        neg_scores = half + half
        with tf.GradientTape() as tape:
            tape.watch(neg_scores)
            loss = _loss(neg_scores)
        gradient = tape.gradient(loss, neg_scores)
        with tf.control_dependencies([gradient]):
            return gradient, tf.identity(neg_scores), neg_scores * 2.0

    for _ in range(3):
        gradient, once, twice = compute(tf.constant(CASE.neg_scores / 2))
        _assert_gradient(gradient, expected)
        np.testing.assert_array_equal(once, CASE.neg_scores)
        np.testing.assert_array_equal(twice, 2 * CASE.neg_scores)


@pytest.mark.parametrize("shape", [[24, 5], [None, 5], [None, None]], ids=str)
def test_xla(backend: str, shape: list[int | None]) -> None:
    """Everything fused steps aside for the reference composition, gradients and loops included."""
    expected = cases.run(fastneg.reference.support_vector_guided_softmax_loss, CASE)

    @tf.function(
        jit_compile=True, autograph=False, input_signature=[tf.TensorSpec(shape), tf.TensorSpec([])]
    )
    def gradient(neg_scores: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(neg_scores)
            loss = tf.cond(factor > 0, lambda: factor * _loss(neg_scores), lambda: factor)
        return tape.gradient(loss, neg_scores)

    _assert_gradient(gradient(CASE.neg_scores, 2.0), expected, 2.0)


@pytest.mark.parametrize("trainable", ["smooth", "margin", "t", "weights"])
def test_variables_as_options(backend: str, trainable: str) -> None:
    variable = tf.Variable(np.full(24, 0.5) if trainable == "weights" else 0.7, dtype=tf.float64)
    with tf.GradientTape() as tape:
        loss = _loss(tf.constant(CASE.neg_scores), **{trainable: variable})
    gradient = tape.gradient(loss, variable)
    assert gradient.dtype == tf.float64
    assert gradient.shape == variable.shape
    assert np.any(gradient != 0)


def test_gradient_of_a_scalar_weight(backend: str) -> None:
    weight = tf.Variable(2.0)
    with tf.GradientTape() as tape:
        loss = _loss(tf.constant(CASE.neg_scores), weights=weight)
    np.testing.assert_allclose(tape.gradient(loss, weight), loss / 2.0, rtol=1e-6)


def test_two_threads_at_once(backend: str) -> None:
    case = cases.make(700, 100)
    expected = cases.run(LOSS, case)
    results: list[cases.Result] = []

    def work(mode: str) -> None:
        for _ in range(5):
            results.append(cases.run(LOSS, case, mode))

    threads = [threading.Thread(target=work, args=(mode,)) for mode in ("eager", "graph")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 10
    for result in results:
        np.testing.assert_allclose(result.loss, expected.loss, rtol=1e-6)
        np.testing.assert_allclose(result.grad_neg, expected.grad_neg, rtol=1e-4, atol=1e-7)


class _Model(tf.Module):
    @tf.function(autograph=False, input_signature=_SPECS)
    def __call__(
        self, pos_score: tf.Tensor, neg_scores: tf.Tensor, weights: tf.Tensor
    ) -> tf.Tensor:
        return LOSS(pos_score, neg_scores, smooth=3.0, weights=weights)


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("saved_model")
    try:
        choice = fastneg.use_backend("native")
    except fastneg.BackendUnavailableError as error:
        pytest.skip(str(error))
    with choice:
        tf.saved_model.save(_Model(), str(path))
    return path


def test_saved_model_loads_and_differentiates(saved_model: pathlib.Path) -> None:
    arguments = [tf.constant(CASE.pos_score), tf.constant(CASE.neg_scores), tf.ones([24])]
    with fastneg.use_backend("native"):
        models = _Model(), tf.saved_model.load(str(saved_model))
        results = []
        for model in models:
            with tf.GradientTape() as tape:
                tape.watch(arguments)
                loss = model(*arguments)
            results.append((loss, *tape.gradient(loss, arguments)))
    for original, restored in zip(*results, strict=True):
        np.testing.assert_array_equal(restored, original)


@pytest.mark.parametrize(
    ("changed", "value", "message"),
    [
        (0, tf.ones([23]), r"`pos_score` must have shape \[24\] or \[24, 1\]\. Received: \[23\]"),
        (1, tf.ones([25, 5]), r"`pos_score` must have shape \[25\] or \[25, 1\]"),
        (1, tf.ones([0, 5]), r"`pos_score` must have shape \[0\]"),
        (2, tf.ones([1]), r"`weights` must have shape \[24\] or \[24, 1\]\. Received: \[1\]"),
    ],
)
def test_saved_model_with_bad_values(
    saved_model: pathlib.Path, changed: int, value: tf.Tensor, message: str
) -> None:
    model = tf.saved_model.load(str(saved_model))
    arguments = [tf.constant(CASE.pos_score), tf.constant(CASE.neg_scores), tf.ones([24])]
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        model(*[value if index == changed else good for index, good in enumerate(arguments)])
    assert np.isfinite(model(*arguments))


def test_saved_model_in_a_process_that_only_imports(saved_model: pathlib.Path) -> None:
    code = f"""
        import tensorflow as tf
        import fastneg
        model = tf.saved_model.load({str(saved_model)!r})
        scores = tf.random.normal([8, 6])
        with tf.GradientTape() as tape:
            tape.watch(scores)
            loss = model(tf.ones([8]), scores, tf.ones([8]))
        assert tape.gradient(loss, scores).shape == [8, 6]
    """
    run_python(code)


def test_operation_called_directly_under_a_tape() -> None:
    """A caller may evade the public function; the gradient then runs the operation once more."""
    try:
        choice = fastneg.use_backend("native")
    except fastneg.BackendUnavailableError as error:
        pytest.skip(str(error))
    from fastneg.backends.native.library import operations

    case = cases.with_weights(CASE)
    with choice:
        expected = cases.run(LOSS, case)
    pos_score, neg_scores = tf.constant(case.pos_score), tf.constant(case.neg_scores)
    scalars = [case.options[name] for name in ("smooth", "margin", "t", "threshold")]
    with tf.GradientTape() as tape:
        tape.watch([pos_score, neg_scores])
        operation = operations().fastneg_sv_softmax
        loss = operation(pos_score, neg_scores, *scalars, [case.options["weights"]]).loss
    grad_pos, grad_neg = tape.gradient(loss, [pos_score, neg_scores])
    np.testing.assert_array_equal(grad_pos, expected.grad_pos)
    np.testing.assert_array_equal(grad_neg, expected.grad_neg)


def test_version_1_session(expected: cases.Result) -> None:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        neg_scores = tf.constant(CASE.neg_scores)
        loss = _loss(neg_scores)
        value, gradient = session.run([loss, tf.gradients(loss, neg_scores)[0]])
    np.testing.assert_allclose(value, expected.loss, rtol=1e-6)
    _assert_gradient(gradient, expected)
