"""What the layers share."""

from typing import Any

import keras


class LossLayer(keras.layers.Layer):  # type: ignore[misc]
    """A layer without weights whose output is a loss."""

    def __init__(self, **kwargs: Any) -> None:
        """Takes what every Keras layer takes; inputs are used as they are, not cast."""
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)

    def loss_spec(self, shape: tuple[int | None, ...], embeddings: Any) -> keras.KerasTensor:
        """Returns the output for embeddings of a dtype: float64 for float64, else float32."""
        dtype = keras.backend.standardize_dtype(embeddings.dtype)
        return keras.KerasTensor(shape, dtype="float64" if dtype == "float64" else "float32")
