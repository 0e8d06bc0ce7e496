"""Adam that touches only the embedding rows of the batch."""

from __future__ import annotations

import keras
import tensorflow as tf


class LazyAdam(keras.optimizers.Adam):
    """Adam whose sparse gradients update only the rows they name, moments included.

    keras.optimizers.Adam turns tf.IndexedSlices into a dense gradient, so that each step reads and
    writes three whole tables however few rows were looked up. Here the other rows, and their
    moments, rest until they are looked up again (TensorFlow Addons' LazyAdam). Dense gradients are
    treated as Keras does.
    """

    def update_step(self, gradient, variable, learning_rate):
        """Updates `variable`, called by Keras for each pair of gradient and variable."""
        if not isinstance(gradient, tf.IndexedSlices):
            super().update_step(gradient, variable, learning_rate)
            return
        rows, grad = sum_duplicate_rows(gradient)
        index = self._get_variable_index(variable)
        momentum, velocity = self._momentums[index].value, self._velocities[index].value

        step = tf.cast(self.iterations + 1, grad.dtype)
        rate = tf.cast(learning_rate, grad.dtype)
        rate *= tf.sqrt(1 - self.beta_2**step) / (1 - self.beta_1**step)
        m, v = tf.gather(momentum, rows), tf.gather(velocity, rows)
        m += (grad - m) * (1 - self.beta_1)
        v += (tf.square(grad) - v) * (1 - self.beta_2)
        new_rows = tf.gather(variable, rows) - rate * m / (tf.sqrt(v) + self.epsilon)
        for table, values in ((momentum, m), (velocity, v), (variable, new_rows)):
            # Not Variable.scatter_update: it also reads back, and so copies, the whole table.
            tf.raw_ops.ResourceScatterUpdate(resource=table.handle, indices=rows, updates=values)


def sum_duplicate_rows(gradient: tf.IndexedSlices) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the distinct rows of a sparse gradient and the gradient summed over each of them."""
    rows, position = tf.unique(gradient.indices)
    return rows, tf.math.unsorted_segment_sum(gradient.values, position, tf.size(rows))
