"""The operations inside XLA: an optional library, which fits the TensorFlow that it was built for.

Where it is loaded, a function compiled by XLA calls the same kernels as any other. Where it is not,
such functions use the reference composition.
"""

import functools
import importlib
import warnings
from pathlib import Path
from typing import Any

import tensorflow as tf

_PATH = Path(__file__).parents[2] / "_xla.so"

# The losses, and what belongs to them, that XLA can call.
_LOWERED = frozenset(
    {
        "pairwise_logistic",
        "random_permutations",
        "rolled_softmax",
        "shuffled_cosine",
        "sv_softmax",
    }
)


def load() -> None:
    """Loads the library if there is one; warns if it was built for another TensorFlow."""
    problem = why_not_loaded()
    if problem is not None and _PATH.exists():
        warnings.warn(
            f"fastneg's operations for XLA were not loaded: {problem}. Where XLA compiles a loss, "
            "the plain TensorFlow composition runs. Installing fastneg again builds them anew.",
            RuntimeWarning,
            stacklevel=2,
        )


@functools.cache
def why_not_loaded() -> str | None:
    """Returns None if the library is loaded, else the reason why not."""
    if not _PATH.exists():
        return f"not built: {_build_fact('XLA_PROBLEM')}"
    built_for, present = _build_fact("XLA_TENSORFLOW"), f"{tf.__version__} {tf.version.GIT_VERSION}"
    if built_for != present:
        return f"built for TensorFlow {built_for}, and this is {present}"
    try:
        tf.load_library(str(_PATH))
    except (tf.errors.OpError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def lowers(loss: str) -> bool:
    """Whether a function that XLA compiles, for any device of this process, can call `loss`."""
    if loss not in _LOWERED or why_not_loaded() is not None:
        return False
    return all(device.device_type == "CPU" for device in tf.config.list_logical_devices())


def _build_fact(name: str) -> Any:
    try:
        return getattr(importlib.import_module("fastneg._build_info"), name)
    except (ImportError, AttributeError):
        return "it was not built"
