"""Models with fastneg's layers and losses: saved, loaded in other processes, cloned, served."""

import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras_models import BATCH, CLASSES, DIM, HISTORY, MODELS
from processes import run_fresh_python, run_python

import fastneg
from fastneg.layers import SampledSoftmaxEmbedding, SampledSoftmaxLayer


def _trained(name: str) -> keras.Model:
    keras.utils.set_random_seed(1)
    make, compile_arguments, data = MODELS[name]
    model = make()
    model.compile(keras.optimizers.Adam(0.05), **compile_arguments)
    model.fit(**data, batch_size=BATCH, verbose=0)
    return model


def loss_of(name: str, model: keras.Model) -> float:
    """The loss by what the model was compiled with, for draws that are the same each time."""
    _, _, data = MODELS[name]
    keras.utils.set_random_seed(3)
    outputs = model(data["x"])
    return float(
        model.compute_loss(y=data.get("y"), y_pred=outputs, sample_weight=data.get("sample_weight"))
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with every model in every form, and their losses."""
    folder = tmp_path_factory.mktemp("models")
    losses = {}
    for name in MODELS:
        model = _trained(name)
        losses[name] = loss_of(name, model)
        model.save(folder / f"{name}.keras")
        model.save_weights(folder / f"{name}.weights.h5")
        tf.train.Checkpoint(model=model).write(str(folder / f"{name}.checkpoint"))
    np.savez(folder / "losses.npz", **losses)
    return folder


def check_loaded(folder: str) -> None:
    """Every model gives its loss again, and goes on training with its optimizer."""
    path = pathlib.Path(folder)
    with np.load(path / "losses.npz") as losses:
        for name, expected in losses.items():
            model = keras.models.load_model(path / f"{name}.keras")
            assert loss_of(name, model) == expected, name
            make, compile_arguments, data = MODELS[name]
            assert int(model.optimizer.iterations) == 3
            model.fit(**data, batch_size=BATCH, verbose=0)
            assert loss_of(name, model) < expected, name

            keras.utils.set_random_seed(2)
            model = make()
            model.compile(keras.optimizers.Adam(0.05), **compile_arguments)
            model.load_weights(path / f"{name}.weights.h5")
            assert loss_of(name, model) == expected, name
            model = make()
            model.compile(keras.optimizers.Adam(0.05), **compile_arguments)
            checkpoint = tf.train.Checkpoint(model=model)
            checkpoint.read(str(path / f"{name}.checkpoint")).assert_existing_objects_matched()
            assert loss_of(name, model) == expected, name


def test_models_load_in_a_fresh_process(saved: pathlib.Path) -> None:
    run_python(f"import test_keras_saving; test_keras_saving.check_loaded({str(saved)!r})")


def test_importing_fastneg_before_keras_is_enough(saved: pathlib.Path) -> None:
    run_python(
        f"""
        import fastneg, keras
        for name in ("mining", "cosine", "retrieval", "embedding", "pairwise"):
            keras.models.load_model({str(saved)!r} + f"/{{name}}.keras")
        """
    )


@pytest.mark.parametrize("setting", [{"TF_USE_LEGACY_KERAS": "1"}, {"KERAS_BACKEND": "numpy"}])
def test_import_where_keras_is_another_one(setting: dict[str, str]) -> None:
    run_fresh_python(
        """
        import fastneg
        import tensorflow as tf
        fastneg.pairwise_loss([1, 0], tf.zeros([2]))
        """,
        **setting,
    )


def test_serving(tmp_path: pathlib.Path) -> None:
    """A tower is served without fastneg; a model with its loss needs the import of it."""
    model = _trained("embedding")
    tower = keras.Model(model.inputs[0], model.get_layer("user").output)
    tower.export(tmp_path / "tower", verbose=False)
    np.save(tmp_path / "expected.npy", tower.predict(HISTORY, verbose=0))
    _trained("cosine").export(tmp_path / "model", verbose=False)
    retrieval = _trained("retrieval")
    retrieval.export(tmp_path / "retrieval", verbose=False)
    loss = loss_of("retrieval", retrieval)
    run_python(
        f"""
        import sys
        import numpy as np
        import tensorflow as tf
        tower = tf.saved_model.load({str(tmp_path / "tower")!r})
        history = tf.constant({HISTORY.tolist()!r})
        np.testing.assert_allclose(
            tower.serve(history), np.load({str(tmp_path / "expected.npy")!r}), rtol=1e-5, atol=1e-6
        )
        assert "fastneg" not in sys.modules

        import fastneg
        from keras_models import DOC, MODELS, QUERY
        model = tf.saved_model.load({str(tmp_path / "model")!r})
        losses = [model.serve([QUERY, DOC]).numpy() for _ in range(2)]
        assert losses[0].shape == (1,) and losses[0] > 0
        assert losses[0] != losses[1], "The permutations are not drawn anew."
        model = tf.saved_model.load({str(tmp_path / "retrieval")!r})
        np.testing.assert_allclose(
            model.serve(MODELS["retrieval"][2]["x"]), {loss!r}, rtol=1e-6
        )
        """
    )


@pytest.mark.parametrize("name", MODELS)
def test_clone(name: str) -> None:
    """A clone has the same sharing of weights inside, and none with the original."""
    model = _trained(name)
    clone = keras.models.clone_model(model)
    assert [v.shape for v in clone.variables] == [v.shape for v in model.variables]
    clone.set_weights(model.get_weights())
    expected = loss_of(name, model)
    _, compile_arguments, data = MODELS[name]
    clone.compile(keras.optimizers.Adam(0.05), **compile_arguments)
    assert loss_of(name, clone) == expected
    before = [np.asarray(variable) for variable in clone.trainable_variables]
    clone.fit(**data, batch_size=BATCH, verbose=0)
    assert all(
        np.any(left != right) for left, right in zip(before, clone.trainable_variables, strict=True)
    )
    assert loss_of(name, clone) < expected
    assert loss_of(name, model) == expected


def test_configuration_of_a_model_holds_no_table() -> None:
    """Whereas the table of another layer, as an argument of a call, would become a part of it."""
    query = keras.Input([DIM])
    labels = keras.Input([], dtype="int32")
    items = SampledSoftmaxEmbedding(100_000, DIM, num_sampled=4)
    model = keras.Model([query, labels], items(query, labels=labels))
    assert len(model.to_json()) < 10_000

    other = keras.layers.Embedding(CLASSES, DIM)
    other.build()
    for table in (other.embeddings, other.embeddings.value, np.zeros([CLASSES, DIM], np.float32)):
        with pytest.raises(
            ValueError, match=r"`embeddings` must be the output of a layer.*SampledSoftmaxEmbedding"
        ):
            SampledSoftmaxLayer(4)([table, query, labels])


@pytest.mark.parametrize("variable", [tf.Variable, keras.Variable])
def test_variable_in_a_functional_model_is_refused(variable: Any) -> None:
    query, doc = keras.Input([DIM]), keras.Input([DIM])
    weights = variable(np.ones(BATCH, np.float32))
    layer = fastneg.layers.NegativeMiningSoftmaxLoss(3, name="mining")
    with pytest.raises(ValueError, match="`mining` must be called with outputs of layers"):
        layer((query, doc), keras.Input([]), sample_weight=weights)
