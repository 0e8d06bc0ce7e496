"""The native operations inside XLA: custom calls of the same kernels."""

import pathlib
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from case_gradients import TOLERANCES, arguments_of, with_gradients
from processes import run_fresh_python, run_python
from small_cases import CASES, B

import fastneg
from fastneg import _tensorflow, backends
from fastneg.backends.native import xla

# Cases that XLA calls kernels for, and the operations that their values are.
OPERATIONS = {
    "rolled_softmax": ["RolledSoftmax"],
    "shuffled_cosine": ["ShuffledCosine"],
    "sv_softmax": ["SvSoftmax"],
    "pairwise_logistic": ["PairwiseLogistic"],
    # The first finds the distinct rows of the table, which are gathered for the second.
    "sampled_softmax": ["SampledRows", "SampledSoftmax"],
    "in_batch_softmax": ["InBatchSoftmax"],
    "positive_ranks": ["PositiveRanks"],
}
# What gradients call besides. The second operation computes the sampled softmax's along with the
# value, for upstream gradients of 1. It has a loss, and so an upstream gradient, for each row; only
# their values decide whether it is enough to scale those gradients.
GRADIENT_OPERATIONS = {"sampled_softmax": ["SampledSoftmaxGrad"]}


def _arguments(name: str, dtype: Any = np.float32) -> list[tf.Tensor]:
    return list(map(tf.constant, arguments_of(name, dtype)))


@pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("name", OPERATIONS)
def test_same_bits_as_outside_xla(native_in_xla: str, name: str, dtype: Any) -> None:
    """Both are the kernels that the rest of the tests hold against the float64 truth."""
    compute, arguments = with_gradients(name), _arguments(name, dtype)
    loss, grads = compute(*arguments)
    compiled_loss, compiled_grads = tf.function(compute, jit_compile=True)(*arguments)
    np.testing.assert_array_equal(loss, compiled_loss)
    for grad, compiled_grad in zip(grads, compiled_grads, strict=True):
        assert grad.dtype == compiled_grad.dtype
        np.testing.assert_array_equal(grad, compiled_grad)


@pytest.mark.parametrize("name", OPERATIONS)
def test_custom_calls_in_the_compiled_program(native_in_xla: str, name: str) -> None:
    """The value and all gradients come from one run."""
    arguments = _arguments(name)
    for compute, with_grad in ((CASES[name].loss, False), (with_gradients(name), True)):
        compiled = tf.function(compute, jit_compile=True)
        program = compiled.experimental_get_compiler_ir(*arguments)(stage="optimized_hlo")
        calls = [line for line in program.splitlines() if 'custom_call_target="fastneg"' in line]
        found = {re.search(r'op = "Fastneg>(\w+)"', call).group(1): call for call in calls}
        expected = OPERATIONS[name] + GRADIENT_OPERATIONS.get(name, []) * with_grad
        assert len(calls) == len(expected)
        assert set(found) == set(expected)
        results = found[OPERATIONS[name][-1]].split(" custom-call")[0]
        gradient = f"f32{arguments[1].shape.as_list()}".replace(" ", "")
        assert (gradient in results) == (with_grad and name != "positive_ranks")


def test_scratch_memory_that_is_used_again(native_in_xla: str) -> None:
    """It is left by calls of other sizes, some of them in other threads."""

    def compute(users: tf.Tensor, items: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch([users, items])
            labels = tf.ones(tf.shape(users)[:1])
            loss = fastneg.softmax_loss_with_negative_mining(users, items, labels, shifts=[1, 2])
        return [loss, *tape.gradient(loss, [users, items])]

    batches = [tf.random.stateless_normal([2, rows, 128], [rows, 1]) for rows in (1500, 3000, 6000)]
    expected = [compute(*batch) for batch in batches]
    compiled = [tf.function(compute, jit_compile=True) for _ in batches]
    for step, batch in zip(compiled, batches, strict=True):
        step(*batch)

    def run(place: int) -> list[tf.Tensor]:
        return compiled[place](*batches[place])

    places = [place for first in range(4) for place in (first % 3, 2, 0, 1)]
    with ThreadPoolExecutor(3) as pool:
        for place, results in zip(places, pool.map(run, places), strict=True):
            for result, value in zip(results, expected[place], strict=True):
                np.testing.assert_array_equal(result, value)


@pytest.mark.parametrize("upstream", [0.0, 1.0, -2.5, np.inf])
def test_upstream_gradients(native_in_xla: str, upstream: float) -> None:
    users, items, *others = _arguments("rolled_softmax")

    def gradient(factor: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(users)
            loss = CASES["rolled_softmax"].loss(users, items, *others)
        return tape.gradient(loss, users, output_gradients=factor)

    factor = tf.constant(upstream)
    np.testing.assert_array_equal(tf.function(gradient, jit_compile=True)(factor), gradient(factor))


def test_upstream_zero_hides_a_loss_that_is_nan(native_in_xla: str) -> None:
    @tf.function(jit_compile=True)
    def gradient(users: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(users)
            loss = 0.0 * fastneg.softmax_loss_with_negative_mining(
                users, tf.ones([B, 4]), tf.ones([B]), 2, shifts=[1, 2]
            )
        return tape.gradient(loss, users)

    np.testing.assert_array_equal(gradient(tf.fill([B, 4], np.nan)), np.zeros([B, 4]))


def test_trainable_scalars(native_in_xla: str) -> None:
    users, items, labels, *_ = _arguments("rolled_softmax")

    def gradients(*scalars: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(scalars)
            gamma, margin, t = scalars
            loss = fastneg.softmax_loss_with_negative_mining(
                users, items, labels, shifts=[1, 3], gamma=gamma, margin=margin, t=t
            )
        return tape.gradient(loss, scalars)

    scalars = [tf.constant(value) for value in (5.0, 0.1, 1.2)]
    np.testing.assert_array_equal(
        tf.function(gradients, jit_compile=True)(*scalars), gradients(*scalars)
    )


BAD_VALUES = {
    "shifts": (
        lambda ones: fastneg.softmax_loss_with_negative_mining(
            ones, ones, ones[:, 0], shifts=tf.cast([1, B], tf.int64) * tf.cast(ones[0, 0], tf.int64)
        ),
        rf"`shifts` must not be 0 modulo the batch size, {B}\. Received: shifts\[1\] = {B}\.",
    ),
    "permutations": (
        lambda ones: fastneg.negative_cosine_loss(
            ones, ones, permutations=tf.cast(ones, tf.int32)[None, :, 0]
        ),
        r"`permutations` must hold each of 0 \.\. 5 once .* permutations\[0, 1\] = 1\.",
    ),
    "temperature": (
        lambda ones: fastneg.pairwise_loss(ones[:, 0], ones[:, 0], temperature=ones[0, 0] - 1),
        r"`temperature` must not be 0\. Received: 0\.",
    ),
    "in-batch temperature": (
        lambda ones: fastneg.in_batch_softmax_loss(ones, ones, temperature=ones[0, 0] - 1),
        r"`temperature` must be positive and finite\. Received: 0\.",
    ),
    "in-batch positives": (
        lambda ones: fastneg.in_batch_softmax_loss(
            ones, ones, positives=B * tf.cast(ones[:, 0], tf.int64)
        ),
        r"`positives` must be at least 0 and less than .*, 6\. Received: positives\[0\] = 6\.",
    ),
    "positives of ranks": (
        lambda ones: fastneg.positive_ranks(ones, ones, -tf.cast(ones[:, 0], tf.int64)),
        r"`positives` must be at least 0 and less than .*, 6\. Received: positives\[0\] = -1\.",
    ),
    "labels": (
        lambda ones: fastneg.sampled_softmax_loss(
            tf.ones([3, 4]), None, 3 * tf.cast(ones[:, :1], tf.int64), ones, 2, 3
        ),
        r"`labels` must be in 0 \.\. 2, as `num_classes` says\. Received: 3\.",
    ),
}


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("name", BAD_VALUES)
def test_bad_values_raise(native_in_xla: str, name: str) -> None:
    """Unlike in the composition, which XLA gives no way to raise."""
    loss, message = BAD_VALUES[name]
    compiled = tf.function(loss, jit_compile=True)
    for _ in range(2):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            compiled(tf.ones([B, 4]))


def test_errors_about_shapes_name_the_argument(native_in_xla: str) -> None:
    @tf.function(jit_compile=True, input_signature=[tf.TensorSpec([None, None])] * 2)
    def loss(users: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        return fastneg.softmax_loss_with_negative_mining(users, items, tf.ones([8]), 3)

    message = r"`item_emb` must have the shape of `user_emb`, \[8, 4\]\. Received: \[8, 5\]\."
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        loss(tf.ones([8, 4]), tf.ones([8, 5]))
    assert np.isfinite(loss(tf.ones([8, 4]), tf.ones([8, 4])))


def test_sizes_that_only_the_running_program_knows(native_in_xla: str) -> None:
    @tf.function(jit_compile=True)
    def loss(users: tf.Tensor, keep: tf.Tensor) -> tf.Tensor:
        kept = tf.boolean_mask(users, keep)
        return fastneg.softmax_loss_with_negative_mining(kept, kept, tf.ones_like(kept[:, 0]), 2)

    with pytest.raises(tf.errors.UnimplementedError, match="not supported to have a dynamic"):
        loss(tf.ones([B, 4]), tf.constant([True] * 4 + [False] * 2))


@pytest.mark.parametrize("batch_size", [4, 7])
def test_permutations_are_drawn(native_in_xla: str, batch_size: int) -> None:
    backend = backends.load("native")

    @tf.function(jit_compile=True, input_signature=[tf.TensorSpec([None, None])])
    def draw(query: tf.Tensor) -> tf.Tensor:
        return backend.random_permutations(5, tf.shape(query, out_type=tf.int64)[0], None)

    first, second = (draw(tf.ones([batch_size, 2])).numpy() for _ in "ab")
    np.testing.assert_array_equal(np.sort(first), np.tile(np.arange(batch_size), (5, 1)))
    assert len({tuple(row) for row in np.concatenate([first, second])}) > 5


def test_a_loss_with_drawn_permutations(native_in_xla: str) -> None:
    query, doc = _arguments("shuffled_cosine")[:2]
    compiled = tf.function(
        lambda query, doc: fastneg.negative_cosine_loss(query, doc), jit_compile=True
    )
    program = compiled.experimental_get_compiler_ir(query, doc)(stage="optimized_hlo")
    assert 'op = "Fastneg>RandomPermutations"' in program
    assert "sort" not in program
    assert np.isfinite(compiled(query, doc))


def test_a_function_that_was_traced_outside_xla(native_in_xla: str) -> None:
    """Its trace holds the operation for the CPU, which is not XLA's: it has to be traced inside."""
    arguments = _arguments("rolled_softmax")
    inner = tf.function(CASES["rolled_softmax"].loss)
    expected = inner(*arguments)
    outer = tf.function(lambda: inner(*arguments), jit_compile=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="Fastneg>RolledSoftmax"):
        outer()
    fresh = tf.function(CASES["rolled_softmax"].loss)
    outer = tf.function(lambda: fresh(*arguments), jit_compile=True)
    np.testing.assert_array_equal(outer(), expected)


def test_a_custom_call_that_was_traced_outside_xla(
    native_in_xla: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine with a GPU: the call runs inside XLA, outside it, and eagerly."""
    monkeypatch.setattr(xla, "is_the_way", lambda loss: True)
    arguments = _arguments("rolled_softmax")
    inner = tf.function(with_gradients("rolled_softmax"))
    expected = inner(*arguments)
    for results in (
        tf.function(lambda: inner(*arguments), jit_compile=True)(),
        with_gradients("rolled_softmax")(*arguments),
    ):
        for actual, wanted in zip(tf.nest.flatten(results), tf.nest.flatten(expected), strict=True):
            np.testing.assert_array_equal(actual, wanted)


def test_automatic_clustering(native_in_xla: str) -> None:
    """XLA may also choose for itself what it compiles."""
    run_fresh_python(
        """
        import numpy as np, tensorflow as tf
        from small_cases import CASES
        case = CASES["rolled_softmax"]
        arguments = [tf.constant(value) for value in case.arguments.values()]
        expected = case.loss(*arguments)
        tf.config.optimizer.set_jit("autoclustering")
        np.testing.assert_allclose(tf.function(case.loss)(*arguments), expected, rtol=1e-6)
        """,
        TF_XLA_FLAGS="--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit",
    )


def test_loaded_after_xla_was_used(native_in_xla: str) -> None:
    run_python(
        """
        import tensorflow as tf
        tf.function(lambda x: 2 * x, jit_compile=True)(tf.ones([3]))
        import fastneg
        from small_cases import CASES
        case = CASES["rolled_softmax"]
        compiled = tf.function(case.loss, jit_compile=True)
        arguments = [tf.constant(value) for value in case.arguments.values()]
        program = compiled.experimental_get_compiler_ir(*arguments)(stage="optimized_hlo")
        assert 'custom_call_target="fastneg"' in program
        """
    )


def test_keras_fit(native_in_xla: str, tmp_path: pathlib.Path) -> None:
    """XLA writes down every program that it compiles; the training step has to call the kernel."""
    run_python(
        """
        import keras, numpy as np, fastneg
        ids = [keras.Input([], dtype="int32") for _ in "ab"]
        towers = [keras.layers.Embedding(50, 8)(tower_ids) for tower_ids in ids]
        labels = keras.Input([])
        outputs = fastneg.layers.NegativeMiningSoftmaxLoss(3, gamma=10.0)(towers, labels)
        model = keras.Model([*ids, labels], outputs)
        model.compile(keras.optimizers.Adam(0.1), jit_compile=True)
        data = [*np.random.default_rng(0).integers(0, 50, (2, 96)), np.ones(96)]
        losses = model.fit(data, batch_size=32, epochs=20, verbose=0).history["loss"]
        assert losses[-1] < 0.8 * losses[0], losses
        """,
        XLA_FLAGS=f"--xla_dump_to={tmp_path} --xla_dump_hlo_as_text",
    )
    programs = [path.read_text() for path in tmp_path.glob("*train*after_optimizations.txt")]
    programs += [path.read_text() for path in tmp_path.glob("*one_step*after_optimizations.txt")]
    assert any('op = "Fastneg>RolledSoftmax"' in program for program in programs)


def test_a_tensorflow_that_takes_no_handlers(native_in_xla: str) -> None:
    """Fastneg still imports and says why; XLA compiles the composition."""
    run_python(
        """
        import tensorflow as tf
        tf.__version__ = "2.17.1"
        import fastneg
        assert "2.18 or newer" in fastneg.build_info()["xla"]
        from small_cases import CASES
        case = CASES["rolled_softmax"]
        arguments = [tf.constant(value) for value in case.arguments.values()]
        compiled = tf.function(case.loss, jit_compile=True)
        program = compiled.experimental_get_compiler_ir(*arguments)(stage="optimized_hlo")
        assert "fastneg" not in program.replace("fastneg/", "")
        assert abs(float(compiled(*arguments)) - float(case.loss(*arguments))) < 1e-5
        """
    )


def test_somebody_elses_modules_have_no_gradient(native_in_xla: str) -> None:
    module = (
        "module @theirs { func.func public @main(%x: tensor<3xf32>) -> tensor<3xf32>"
        " { return %x : tensor<3xf32> } }"
    )

    @tf.function(autograph=False)
    def gradient(x: tf.Tensor) -> tf.Tensor:
        (y,) = _tensorflow.xla_call_module(
            [x], module=module, dtypes=[tf.float32], shapes=[x.shape], platforms=["CPU"]
        )
        return tf.gradients(y, x)

    with pytest.raises(LookupError, match="no entry for: XlaCallModule"):
        gradient(tf.ones([3]))


def test_second_derivatives_are_refused(native_in_xla: str) -> None:
    users, *others = _arguments("rolled_softmax")

    @tf.function(jit_compile=True, autograph=False)
    def second(users: tf.Tensor) -> tf.Tensor:
        loss = CASES["rolled_softmax"].loss(users, *others)
        (first,) = tf.gradients(loss, users)
        return tf.gradients(first, users)

    with pytest.raises(LookupError, match=r'fastneg\.use_backend\("reference"\)'):
        second(users)


def test_other_devices_get_the_composition(
    native_in_xla: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """XLA may compile for any device that there is, and the kernels are for processors."""
    devices = [*tf.config.list_logical_devices(), tf.config.LogicalDevice("/device:TPU:0", "TPU")]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda: devices)
    assert not backends.load("native").runs_in_xla("rolled_softmax")
    assert backends.load("reference").runs_in_xla("rolled_softmax")
