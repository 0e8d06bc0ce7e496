"""Inside a Keras model: fit, with and without XLA."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import fastneg

_USERS, _ITEMS, _WIDTH = 40, 30, 8


@keras.saving.register_keras_serializable("fastneg tests")
class TwoTower(keras.Model):
    """Two embedding tables, and the loss over a batch of clicks."""

    def __init__(self) -> None:
        super().__init__()
        self.users = keras.layers.Embedding(_USERS, _WIDTH, embeddings_initializer="normal")
        self.items = keras.layers.Embedding(_ITEMS, _WIDTH, embeddings_initializer="normal")
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        user_ids, item_ids = inputs
        return self.users(user_ids), self.items(item_ids)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        user_emb, item_emb = y_pred
        return fastneg.softmax_loss_with_negative_mining(
            user_emb, item_emb, y, num_negative_samples=3, gamma=self.scale, candidate_ids=x[1]
        )


def _train(**compile_options: object) -> TwoTower:
    keras.utils.set_random_seed(0)
    user_ids = np.random.default_rng(0).integers(_USERS, size=56)
    clicks = (user_ids, user_ids % _ITEMS)
    model = TwoTower()
    model.compile(keras.optimizers.Adam(0.05), **compile_options)
    # The last batch is smaller: the batch size is unknown while tracing.
    history = model.fit(clicks, np.ones(56, np.int32), batch_size=40, epochs=6, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert float(model.scale) != 1.0
    return model


@pytest.mark.parametrize("jit_compile", [False, "auto"])
def test_fit(backend: str, jit_compile: bool | str) -> None:
    model = _train(jit_compile=jit_compile)
    ids = (np.arange(20), np.arange(20))
    assert np.isfinite(model.evaluate(ids, np.ones(20), verbose=0))


def test_fit_eagerly(backend: str) -> None:
    _train(run_eagerly=True)


def test_fit_inside_xla() -> None:
    _train(jit_compile=True)
