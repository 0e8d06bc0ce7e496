"""The operations on a GPU, called by TensorFlow; skipped where there is none.

The kernels by themselves, and what TensorFlow hands them, are tested without a GPU in
`test_cuda_*.py`. On a GPU, run `python benchmarks/gpu_tensorflow.py`, which runs this.
"""

import concurrent.futures
from collections.abc import Iterator
from typing import Any

import evaluation
import numpy as np
import problems
import pytest
import shuffled_problems
import sv_softmax_cases
import tensorflow as tf
from case_gradients import (
    TOLERANCES,
    arguments_of,
    assert_near_truth,
    truth_of,
    with_gradients,
)
from processes import run_python
from small_cases import CASES, B

import fastneg

if not tf.config.list_physical_devices("GPU"):
    pytest.skip("TensorFlow sees no GPU", allow_module_level=True)

ON_GPU = ("rolled_softmax", "shuffled_cosine", "sv_softmax")
MODES = {
    "eager": lambda function: function,
    "graph": tf.function,
    "xla": lambda function: tf.function(function, jit_compile=True),
}
GPU = "/device:GPU:0"
LAYOUTS = [  # Rows of each way in which the kernels share them among lanes.
    ("float32", 3),
    ("float32", 32),
    ("float32", 64),
    ("float32", 128),
    ("float32", 256),
    ("float32", 300),
    ("float32", 1024),
    ("bfloat16", 64),
    ("bfloat16", 512),
    ("float16", 128),
    ("float16", 50),
    ("float64", 64),
    ("float64", 300),
]


@pytest.fixture(autouse=True)
def native_on_a_gpu() -> Iterator[None]:
    """The native backend, with its operations on the GPU."""
    info = fastneg.build_info()
    for name in ("cuda", "xla"):
        if info[name] != "loaded":
            pytest.skip(f"the library for {name}: {info[name]}")
    with fastneg.use_backend("native"):
        yield


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("name", ON_GPU)
def test_values_and_gradients(name: str, dtype: np.dtype, mode: str) -> None:
    arguments = arguments_of(name, dtype)
    compute = MODES[mode](with_gradients(name))
    loss, grads = compute(*(tf.constant(value) for value in arguments))
    assert all(result.device.endswith(GPU) for result in (loss, *grads))
    assert_near_truth((loss, grads), truth_of(name, arguments), dtype)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("dtype", "width"), LAYOUTS)
def test_layouts_of_rolled_rows(dtype: str, width: int, mode: str) -> None:
    problem = problems.with_everything(problems.make(257, 20, width, dtype))
    with tf.device("CPU:0"):
        plain = evaluation.run(fastneg.reference.softmax_loss_with_negative_mining, problem)
    result = evaluation.run(fastneg.softmax_loss_with_negative_mining, problem, mode)
    evaluation.assert_as_accurate(result, plain, evaluation.truth(problem), problem)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("dtype", "width"), LAYOUTS)
def test_layouts_of_shuffled_rows(dtype: str, width: int, mode: str) -> None:
    problem = shuffled_problems.with_everything(shuffled_problems.make(257, 20, width, dtype))
    with tf.device("CPU:0"):
        plain = shuffled_problems.run(fastneg.reference.negative_cosine_loss, problem)
    result = shuffled_problems.run(fastneg.negative_cosine_loss, problem, mode)
    shuffled_problems.assert_as_accurate(result, plain, problem)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("dtype", "width"), LAYOUTS)
def test_layouts_of_scores(dtype: str, width: int, mode: str) -> None:
    case = sv_softmax_cases.with_weights(sv_softmax_cases.make(257, width, dtype))
    with tf.device("CPU:0"):
        plain = sv_softmax_cases.run(fastneg.reference.support_vector_guided_softmax_loss, case)
    result = sv_softmax_cases.run(fastneg.support_vector_guided_softmax_loss, case, mode)
    sv_softmax_cases.assert_as_accurate(result, plain, sv_softmax_cases.truth(case), case)


@pytest.mark.parametrize("mode", MODES)
def test_trained_scalars(mode: str) -> None:
    """The kernels read them where they are."""
    rows = tf.random.stateless_normal([2, 50, 16], [1, 2])

    def compute(gamma: tf.Tensor, margin: tf.Tensor, t: tf.Tensor) -> list[tf.Tensor]:
        scalars = {"margin": margin, "t": t}
        with tf.GradientTape() as tape:
            tape.watch([gamma, margin, t])
            loss = fastneg.softmax_loss_with_negative_mining(
                *tf.unstack(rows), tf.ones([50]), shifts=[1, 5, 9], gamma=gamma, **scalars
            )
            loss += fastneg.negative_cosine_loss(
                *tf.unstack(rows), permutations=[list(range(50))[::-1]], scale=gamma, t=t
            )
            loss += fastneg.support_vector_guided_softmax_loss(
                rows[0, :, 0], rows[1], smooth=gamma, threshold=margin, **scalars
            )
        return [loss, *tape.gradient(loss, [gamma, margin, t])]

    scalars = [tf.constant(value) for value in (5.0, 0.1, 1.2)]
    results = MODES[mode](compute)(*scalars)
    with fastneg.use_backend("reference"), tf.device("CPU:0"):
        expected = compute(*scalars)
    np.testing.assert_allclose(results, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ON_GPU)
def test_the_same_bits_again(name: str) -> None:
    arguments = [tf.constant(value) for value in arguments_of(name)]
    for mode in MODES.values():
        compute = mode(with_gradients(name))
        loss, grads = compute(*arguments)
        for _ in range(5):
            again, grads_again = compute(*arguments)
            np.testing.assert_array_equal(again, loss)
            for grad_again, grad in zip(grads_again, grads, strict=True):
                np.testing.assert_array_equal(grad_again, grad)


@pytest.mark.parametrize("name", ON_GPU)
def test_custom_call_in_the_compiled_program(name: str) -> None:
    arguments = [tf.constant(value) for value in arguments_of(name)]
    compiled = tf.function(with_gradients(name), jit_compile=True)
    program = compiled.experimental_get_compiler_ir(*arguments)(
        stage="optimized_hlo", platform_name="GPU"
    )
    assert program.count('custom_call_target="fastneg"') == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [name for name in CASES if name not in ON_GPU])
def test_losses_without_kernels_for_gpus(name: str, mode: str) -> None:
    """TensorFlow copies their tensors to the CPU, XLA gets the composition."""
    arguments = [tf.constant(value) for value in arguments_of(name)]
    compute = MODES[mode](lambda *arguments: CASES[name].loss(*arguments))
    with fastneg.use_backend("reference"), tf.device("CPU:0"):
        expected = CASES[name].loss(*arguments)
    if name == "batch-normalized cosine":  # Draws permutations.
        assert np.isfinite(compute(*arguments))
    else:
        np.testing.assert_allclose(compute(*arguments), expected, rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_negatives_are_drawn(mode: str) -> None:
    users = tf.random.normal([200, 16])
    compute = MODES[mode](
        lambda users: (
            fastneg.softmax_loss_with_negative_mining(users, users, users[:, 0], 7),
            fastneg.negative_cosine_loss(users, users, 7),
        )
    )
    values = np.array([compute(users) for _ in range(5)])
    assert np.all(np.isfinite(values))
    assert len(np.unique(values)) == values.size


def test_bad_shapes_raise() -> None:
    @tf.function(input_signature=[tf.TensorSpec([None, None])] * 2)
    def loss(users: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        return fastneg.softmax_loss_with_negative_mining(users, items, users[:, 0], 3)

    message = r"`item_emb` must have the shape of `user_emb`, \[8, 4\]\. Received: \[8, 5\]\."
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        loss(tf.ones([8, 4]), tf.ones([8, 5]))
    assert np.isfinite(loss(tf.ones([8, 4]), tf.ones([8, 4])))


@pytest.mark.parametrize("mode", MODES)
def test_bad_values_make_the_results_nan(mode: str) -> None:
    """Looking at them on the host would make it wait for the GPU at every step."""

    @MODES[mode]
    def compute(users: tf.Tensor, last: tf.Tensor) -> Any:
        shifts = tf.stack([tf.ones_like(last), last])
        order = tf.stack([tf.range(B), tf.where(tf.range(B) == 0, last, tf.range(B))])
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(users)
            rolled = fastneg.softmax_loss_with_negative_mining(
                users, users, tf.ones([B]), shifts=shifts
            )
            shuffled = fastneg.negative_cosine_loss(users, users, permutations=order)
        return (
            rolled,
            tape.gradient(rolled, users),
            shuffled,
            tape.gradient(shuffled, users),
        )

    users = tf.random.normal([B, 4])
    assert all(np.all(np.isnan(result)) for result in compute(users, tf.constant(B)))
    rolled, rolled_grad, *_ = compute(users, tf.constant(B - 1))
    assert np.isfinite(rolled)
    assert np.all(np.isfinite(rolled_grad))


def test_empty_batch() -> None:
    users = tf.ones([0, 4])
    with tf.GradientTape() as tape:
        tape.watch(users)
        loss = fastneg.softmax_loss_with_negative_mining(users, users, users[:, 0], 3)
    assert loss.numpy() == 0
    assert tape.gradient(loss, users).shape == (0, 4)


def test_threads_that_call_at_once() -> None:
    losses = [_loss_of_seed(seed).numpy() for seed in range(16)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        again = list(pool.map(lambda seed: _loss_of_seed(seed).numpy(), list(range(16)) * 8))
    np.testing.assert_array_equal(again, losses * 8)


def _loss_of_seed(seed: int) -> tf.Tensor:
    users = tf.random.stateless_normal([512, 32], [seed, 0])
    items = tf.random.stateless_normal([512, 32], [seed, 1])
    return fastneg.softmax_loss_with_negative_mining(
        users, items, tf.ones([512]), shifts=list(range(1, 20))
    )


_FIT = """
    import keras, numpy as np, tensorflow as tf, fastneg

    def fit(strategy, jit_compile, policy="float32"):
        keras.utils.set_random_seed(0)
        keras.config.set_dtype_policy(policy)
        with strategy.scope():
            ids = [keras.Input([], dtype="int32") for _ in "ab"]
            normal = keras.initializers.RandomNormal(stddev=1.0)  # Long enough for float16.
            towers = [keras.layers.Embedding(50, 8, normal)(tower_ids) for tower_ids in ids]
            labels = keras.Input([])
            loss = fastneg.layers.NegativeMiningSoftmaxLoss(3, gamma=10.0, seed=1)
            model = keras.Model([*ids, labels], loss(towers, labels))
            model.compile(keras.optimizers.Adam(0.1), jit_compile=jit_compile)
            data = [*np.random.default_rng(0).integers(0, 50, (2, 96)), np.ones(96)]
            history = model.fit(data, batch_size=32, epochs=20, verbose=0, shuffle=False)
        losses = history.history["loss"]
        assert losses[-1] < 0.8 * losses[0], losses
"""


def _run_fit(code: str) -> None:
    run_python(_FIT.replace("\n    ", "\n") + code)


@pytest.mark.parametrize("jit_compile", ["auto", True, False])
def test_keras_fit(jit_compile: bool | str) -> None:
    _run_fit(
        f"""
for policy in ("float32", "mixed_float16", "mixed_bfloat16"):
    fit(tf.distribute.get_strategy(), {jit_compile!r}, policy)
"""
    )


def test_two_devices_on_one_gpu() -> None:
    """Streams of their own; with MirroredStrategy as on two GPUs."""
    _run_fit(
        """
gpu = tf.config.list_physical_devices("GPU")[0]
half = tf.config.LogicalDeviceConfiguration(memory_limit=2048)
tf.config.set_logical_device_configuration(gpu, [half, half])
names = [device.name for device in tf.config.list_logical_devices("GPU")]
assert len(names) == 2
losses = []
for name in names:
    with tf.device(name):
        users = tf.random.stateless_normal([64, 8], [1, 2])
        losses.append(fastneg.softmax_loss_with_negative_mining(
            users, users, tf.ones([64]), shifts=[1, 5, 9]))
        assert losses[-1].device.endswith(name[-6:]), (losses[-1].device, name)
assert losses[0].numpy() == losses[1].numpy()
across = tf.distribute.HierarchicalCopyAllReduce()
fit(tf.distribute.MirroredStrategy(names, cross_device_ops=across), False)
"""
    )


def test_all_gpus() -> None:
    if len(tf.config.list_physical_devices("GPU")) < 2:
        pytest.skip("there is one GPU")
    _run_fit("fit(tf.distribute.MirroredStrategy(), 'auto')")


def test_gradient_tape_on_the_other_device() -> None:
    """The value on the GPU, its gradient scaled by something that the CPU holds."""
    users = tf.random.normal([32, 8])
    with tf.GradientTape() as tape:
        tape.watch(users)
        loss = fastneg.softmax_loss_with_negative_mining(users, users, tf.ones([32]), shifts=[1, 2])
        with tf.device("CPU:0"):
            scaled = 2.0 * loss
    grad = tape.gradient(scaled, users)
    with tf.GradientTape() as tape:
        tape.watch(users)
        loss = fastneg.reference.softmax_loss_with_negative_mining(
            users, users, tf.ones([32]), shifts=[1, 2]
        )
    np.testing.assert_allclose(grad, 2 * tape.gradient(loss, users), rtol=1e-4, atol=1e-6)
