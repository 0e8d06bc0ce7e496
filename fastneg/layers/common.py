"""What the layers share: constructor arguments that stay what they were, and outputs as symbols."""

import math
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from fastneg import validation


def saved_number(name: str, value: Any, instead: str) -> Any:
    """Checks a number that Keras is to save, and makes it one of Python.

    Args:
        name: The argument's name.
        value: Something that may be a tensor or a variable, whose value now Keras would save.
        instead: What to do for a number that changes, a sentence.
    """
    if not validation.is_number(value):
        raise ValueError(f"`{name}` must be a number. {instead} Received: {value!r}.")
    validation.number(name, value)
    return value.item() if isinstance(value, (np.generic, np.ndarray)) else value


class FixedOptions:
    """A part of a layer: arguments of its constructor, which Keras saves and which stay the same.

    A traced or compiled function holds them as constants, so that a later assignment would change
    nothing in it, without a word.

    Attributes:
        OPTIONS: The names of the constructor's arguments, which are also attributes.
        NUMBERS: Those that are numbers, with what to do for who wants to train one.
    """

    OPTIONS: ClassVar[tuple[str, ...]] = ()
    NUMBERS: ClassVar[dict[str, str]] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets an attribute; an option only as long as no call has used it."""
        if name in self.OPTIONS:
            if getattr(self, "built", False):
                raise AttributeError(
                    f"`{name}` must be set before the layer is first called: models that were "
                    "built or compiled with the layer hold it as a constant. "
                    f"{self.NUMBERS.get(name, 'Make another layer for another value.')} "
                    f"Received: {value!r}."
                )
            if name in self.NUMBERS:
                value = saved_number(name, value, self.NUMBERS[name])
            # With the function's two integers a layer would draw the same in each step.
            if name == "seed" and value is not None and not validation.is_integer(value):
                raise ValueError(
                    f"`seed` must be a Python integer or None in a layer. Received: {value!r}."
                )
        super().__setattr__(name, value)

    def rematerialized_call(self, layer_call: Any, *args: Any, **kwargs: Any) -> Any:
        """Returns `layer_call` itself, inside a `keras.RematScope` too.

        Computed a second time for the gradient, the layer would draw other negatives, or change
        its state twice; and it keeps next to nothing in memory that this would save.
        """
        return layer_call

    def get_config(self) -> dict[str, Any]:
        """Returns what the constructor takes."""
        config: dict[str, Any] = super().get_config()  # type: ignore[misc]
        return {**config, **{name: getattr(self, name) for name in self.OPTIONS}}


class LossLayer(FixedOptions, keras.layers.Layer):  # type: ignore[misc]
    """A layer whose output is a loss, computed from inputs as they are, not cast."""

    def __init__(self, **kwargs: Any) -> None:
        """Takes what every Keras layer takes."""
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the layer; in a functional model no argument may be a variable.

        Keras would save the variable's present value in the configuration of the model, which a
        loaded model would take for ever.
        """
        leaves = tf.nest.flatten((args, kwargs))
        if any(isinstance(leaf, keras.KerasTensor) for leaf in leaves):
            for leaf in leaves:
                if isinstance(leaf, (keras.Variable, tf.Variable)):
                    raise ValueError(
                        f"`{self.name}` must be called with outputs of layers and constants in a "
                        "functional model, where Keras saves the present value of a variable for "
                        f"good. Let a layer return the variable. Received: {leaf!r}."
                    )
        return super().__call__(*args, **kwargs)

    def add_learnable_scale(self, name: str, initial: float) -> keras.Variable:
        """Adds a trained positive number as its logarithm, `log_<name>`, float32 at least."""
        if initial <= 0:
            raise ValueError(
                f"`{name}` must be greater than 0 with `learnable_{name}`, which trains its "
                f"logarithm. Received: {initial!r}."
            )
        return self.add_weight(
            name=f"log_{name}",
            shape=(),
            # keras.initializers.Constant would round it to float32.
            initializer=lambda shape, dtype: tf.fill(shape, tf.constant(math.log(initial), dtype)),
            dtype="float64" if self.variable_dtype == "float64" else "float32",
            autocast=False,
        )


def loss_spec(shape: tuple[int | None, ...], embeddings: Any) -> keras.KerasTensor:
    """Returns a loss for embeddings of a dtype as a symbol: float64 for float64, else float32."""
    dtype = keras.backend.standardize_dtype(embeddings.dtype)
    return keras.KerasTensor(shape, dtype="float64" if dtype == "float64" else "float32")


def weighted_mean(losses: tf.Tensor, weights: Any) -> tf.Tensor:
    """Returns sum_i w_i loss_i / #{i : w_i != 0}, 0 over no rows.

    Args:
        losses: [B] or [B, 1].
        weights: [B] or [B, 1], or None for 1 everywhere. Rows of weight 0 may have any loss.
    """
    dtype = validation.compute_dtype(losses.dtype)
    losses = tf.reshape(tf.cast(losses, dtype), [-1])
    if weights is None:
        return tf.math.divide_no_nan(tf.reduce_sum(losses), tf.cast(tf.size(losses), dtype))
    weights = validation.real_tensor("sample_weight", weights, dtype)
    num_rows = validation.static_batch_size(losses)
    validation.per_row("sample_weight", weights, num_rows, allow_column=True)
    weights = tf.reshape(weights, tf.shape(losses))
    count = tf.math.count_nonzero(weights, dtype=dtype)
    return tf.math.divide_no_nan(tf.reduce_sum(tf.math.multiply_no_nan(losses, weights)), count)
