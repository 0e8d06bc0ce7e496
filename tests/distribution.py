"""What `test_distribution.py` runs in processes of their own: strategies of tf.distribute."""

import json
import os
from typing import Any

import keras
import keras_models
import numpy as np
import tensorflow as tf
from keras_models import DOC, LABELS, MODELS, QUERY, WEIGHTS, every

import fastneg

ROWS, EPOCHS, RATE = 16, 2, 0.1
"""Rows of a global batch, half of them for each replica."""


def take(rows: slice) -> tuple[Any, Any, Any]:
    return [QUERY[rows], DOC[rows]], LABELS[rows], WEIGHTS[rows]


class Towers(keras_models.Towers):
    """Scales its loss for the sum over replicas, which Keras leaves to a `compute_loss`."""

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss(*args, **kwargs)
        return loss / tf.distribute.get_strategy().num_replicas_in_sync


def fitted(strategy: tf.distribute.Strategy) -> list[np.ndarray]:
    """The weights after training with global batches of ROWS.

    `fit` builds the model, with the mean of the replicas' batches: labels are floats then.
    """
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = Towers()
        model.compile(keras.optimizers.SGD(RATE))
    x, y, weights = take(slice(ROWS))
    dataset = tf.data.Dataset.from_tensor_slices((tuple(x), y, weights)).batch(ROWS)
    model.fit(dataset, epochs=EPOCHS, verbose=0)
    return [np.asarray(variable) for variable in model.trainable_variables]


def stepped(strategy: tf.distribute.Strategy) -> list[np.ndarray]:
    """The same by a loop of one's own: Keras (3.15) cannot read its data for several processes."""
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = Towers()
        model([QUERY[:2], DOC[:2]])
        optimizer = keras.optimizers.SGD(RATE)
        optimizer.build(model.trainable_variables)
    x, y, weights = take(slice(ROWS))
    dataset = tf.data.Dataset.from_tensor_slices((tuple(x), y, weights)).batch(ROWS)

    @tf.function
    def step(data: Any) -> None:
        def on_replica(x: Any, y: Any, weights: Any) -> None:
            with tf.GradientTape() as tape:
                value = model.compute_loss(x, y, model(x), weights)
            gradients = tape.gradient(
                value, [v.value for v in model.trainable_variables], unconnected_gradients="zero"
            )
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

        strategy.run(on_replica, args=data)

    for _ in range(EPOCHS):
        for data in strategy.experimental_distribute_dataset(dataset):
            step(data)
    return [np.asarray(variable) for variable in model.trainable_variables]


def expected() -> list[np.ndarray]:
    """The same by hand in one process: the mean of the losses of the two halves of the batch."""
    keras.utils.set_random_seed(1)
    model = keras_models.Towers()
    model([QUERY[:2], DOC[:2]])
    variables = [variable.value for variable in model.trainable_variables]
    for _ in range(EPOCHS):
        with tf.GradientTape() as tape:
            losses = []
            for half in (slice(ROWS // 2), slice(ROWS // 2, ROWS)):
                x, y, weights = take(half)
                losses.append(every(fastneg.reference, model, model(x), y, weights))
            value = tf.add_n(losses) / 2
        gradients = tape.gradient(value, variables, unconnected_gradients="zero")
        for variable, gradient in zip(variables, gradients, strict=True):
            variable.assign_sub(RATE * tf.convert_to_tensor(gradient))
    return [np.asarray(variable) for variable in model.trainable_variables]


def assert_close(got: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def draws(strategy: tf.distribute.Strategy, seed: int | None) -> np.ndarray:
    """Losses by drawn negatives, for the same rows in each replica: [step, local replica, loss]."""
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(0)
    users, items = (tf.constant(rng.normal(size=(64, 4))) for _ in range(2))
    labels = tf.range(64, dtype=tf.int64) % 40

    def losses() -> tf.Tensor:
        rolled = fastneg.softmax_loss_with_negative_mining(users, items, labels + 1, seed=seed)
        shuffled = fastneg.negative_cosine_loss(users, items, seed=seed)
        sampled = fastneg.sampled_softmax_loss(items[:40], None, labels, users, 5, 40, seed=seed)
        return tf.stack([rolled, shuffled, tf.reduce_mean(sampled)])

    @tf.function
    def step() -> Any:
        return strategy.experimental_local_results(strategy.run(losses))

    return np.asarray([[replica.numpy() for replica in step()] for _ in range(3)])


def assert_draws_differ(drawn: np.ndarray) -> None:
    """Between steps and replicas: [step, replica, loss]."""
    for values in drawn.reshape(-1, drawn.shape[-1]).T:
        assert len(np.unique(values)) == values.size, drawn


def mirrored() -> None:
    """Two replicas on logical CPUs."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2
    assert_close(fitted(strategy), expected())
    pairwise_class(strategy)
    for name in ("mining", "cosine", "embedding", "sampled"):
        keras.utils.set_random_seed(1)
        make, compile_arguments, data = MODELS[name]
        with strategy.scope():
            model = make()
            model.compile(keras.optimizers.Adam(0.05), **compile_arguments)
        history = model.fit(**data, batch_size=10, epochs=8, verbose=0).history["loss"]
        assert min(history[-2:]) < history[0], (name, history)
        for variable in model.trainable_variables:  # The copies stay the same.
            first, second = strategy.experimental_local_results(variable.value)
            np.testing.assert_array_equal(first, second)
    assert_draws_differ(draws(strategy, seed=None))
    seeded = draws(strategy, seed=3)
    assert_draws_differ(seeded)
    np.testing.assert_array_equal(seeded[:, :1], draws(tf.distribute.get_strategy(), seed=3))


def pairwise_class(strategy: tf.distribute.Strategy) -> None:
    """`fastneg.losses.PairwiseLoss` is a mean over replicas, of pairs within each."""
    x, y, weights = QUERY[:ROWS], LABELS[:ROWS], WEIGHTS[:ROWS]
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = keras_models.pairwise_model()
        model.compile(keras.optimizers.SGD(RATE), loss=fastneg.losses.PairwiseLoss())
    variables = [tf.Variable(np.asarray(variable)) for variable in model.trainable_variables]
    with tf.GradientTape() as tape:
        logits = x @ variables[0] + variables[1]
        halves = (slice(ROWS // 2), slice(ROWS // 2, ROWS))
        losses = [
            fastneg.reference.pairwise_loss(y[half], logits[half], weights=weights[half])
            for half in halves
        ]
        value = tf.add_n(losses) / 2
    for variable, gradient in zip(variables, tape.gradient(value, variables), strict=True):
        variable.assign_sub(RATE * gradient)
    history = model.fit(x, y, sample_weight=weights, batch_size=ROWS, verbose=0, shuffle=False)
    np.testing.assert_allclose(history.history["loss"], [value], rtol=1e-5)
    assert_close([np.asarray(v) for v in model.trainable_variables], [v.numpy() for v in variables])


def worker(index: int, ports: list[int]) -> None:
    """One of two processes, each with one replica."""
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    os.environ["TF_CONFIG"] = json.dumps(
        {"cluster": cluster, "task": {"type": "worker", "index": index}}
    )
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    assert strategy.num_replicas_in_sync == 2
    assert_close(stepped(strategy), expected())
    for seed in (None, 3):
        drawn = draws(strategy, seed)
        per_step = [strategy.gather(tf.constant(values), axis=0).numpy() for values in drawn]
        assert_draws_differ(np.asarray(per_step))


def parameter_servers(ports: list[int]) -> None:
    """Two parameter servers with half a table each, two workers, and this coordinator."""
    names = ["ps", "ps", "worker", "worker"]
    cluster: dict[str, list[str]] = {"ps": [], "worker": []}
    for name, port in zip(names, ports, strict=True):
        cluster[name].append(f"127.0.0.1:{port}")
    spec = tf.train.ClusterSpec(cluster)
    servers = [
        tf.distribute.Server(spec, job_name=name, task_index=index % 2, protocol="grpc")
        for index, name in enumerate(names)
    ]
    strategy = tf.distribute.ParameterServerStrategy(
        tf.distribute.cluster_resolver.SimpleClusterResolver(spec, rpc_layer="grpc"),
        variable_partitioner=tf.distribute.experimental.partitioners.FixedShardsPartitioner(2),
    )
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    rng = np.random.default_rng(0)
    initial = rng.normal(size=(11, 4)).astype(np.float32)  # Of 6 and 5 rows.
    inputs = tf.constant(rng.normal(size=(8, 4)).astype(np.float32))
    labels = tf.constant(rng.integers(0, 11, 8))
    samples = ([9, 1, 4, 5, 10], 0.3, [0.4, 0.4, 0.5, 0.3, 0.2])
    with strategy.scope():
        table = tf.Variable(initial)
    assert len(table.variables) == 2

    @tf.function
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            losses = fastneg.sampled_softmax_loss(
                table, None, labels, inputs, 5, 11, sampled_values=samples
            )
            value = tf.reduce_sum(losses)
        for shard, gradient in zip(
            table.variables, tape.gradient(value, table.variables), strict=True
        ):
            shard.scatter_sub(tf.IndexedSlices(RATE * gradient.values, gradient.indices))
        return value

    whole = tf.Variable(initial)
    for _ in range(3):
        got = coordinator.schedule(step)
        coordinator.join()
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(
                tf.nn.sampled_softmax_loss(
                    whole,
                    np.zeros(11, np.float32),
                    labels[:, None],
                    inputs,
                    5,
                    11,
                    sampled_values=(
                        tf.constant(samples[0], tf.int64),
                        tf.fill([8, 1], 0.3),
                        samples[2],
                    ),
                )
            )
        np.testing.assert_allclose(got.fetch(), value, rtol=1e-5)
        gradient = tape.gradient(value, whole)
        whole.scatter_sub(tf.IndexedSlices(RATE * gradient.values, gradient.indices))
    np.testing.assert_allclose(tf.concat(table.variables, 0), whole, rtol=1e-5, atol=1e-6)
    del servers


def op_determinism() -> None:
    """Every random operation is seeded, and two trainings agree in every bit."""
    tf.config.experimental.enable_op_determinism()
    drawing = ["mining", "cosine", "embedding"]
    for backend, names in {"native": list(MODELS), "numba": drawing, "reference": drawing}.items():
        with fastneg.use_backend(backend):
            for name in names:
                make, compile_arguments, data = MODELS[name]
                results = []
                for _ in range(2):
                    keras.utils.set_random_seed(1)
                    model = make()
                    model.compile(keras.optimizers.SGD(0.5), **compile_arguments)
                    history = model.fit(**data, batch_size=8, verbose=0).history
                    results.append([*model.get_weights(), history["loss"]])
                for left, right in zip(*results, strict=True):
                    np.testing.assert_array_equal(left, right, err_msg=f"{backend}, {name}")
