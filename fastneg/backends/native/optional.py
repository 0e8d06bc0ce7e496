"""Libraries beside `_ops.so` that are built on request, for one version of TensorFlow."""

import ctypes
import functools
import importlib
import warnings
from pathlib import Path
from typing import Any

import tensorflow as tf

_FOLDER = Path(__file__).parents[2]


class OptionalLibrary:
    """A library that extends the native operations where it fits.

    Args:
        file: Its name in the package's folder.
        problem: The name in `_build_info` of why it was not built.
        without: What happens without it, a sentence for users.
        plain: Libraries in the same folder that it needs and that know nothing of TensorFlow; those
            that were not built are not needed.
    """

    def __init__(  # noqa: D107
        self, file: str, *, problem: str, without: str, plain: tuple[str, ...] = ()
    ) -> None:
        self._path = _FOLDER / file
        self._problem = problem
        self._without = without
        self._plain = plain
        self.why_not_loaded = functools.cache(self._why_not_loaded)

    def load(self) -> None:
        """Loads the library if it was built; warns if that was for another TensorFlow."""
        problem = self.why_not_loaded()
        if problem is not None and self._path.exists():
            warnings.warn(
                f"fastneg's {self._path.name} was not loaded: {problem}. {self._without} "
                "Installing fastneg again, in the way that built this library, builds it anew.",
                RuntimeWarning,
                stacklevel=2,
            )

    def _why_not_loaded(self) -> str | None:
        """Returns None if the library is loaded, else the reason why not."""
        if not self._path.exists():
            return f"not built: {_build_fact(self._problem)}"
        built_for = _build_fact("TENSORFLOW")
        present = f"{tf.__version__} {tf.version.GIT_VERSION}"
        if built_for != present:
            return f"built for TensorFlow {built_for}, and this is {present}"
        try:
            for name in self._plain:
                if (_FOLDER / name).exists():
                    ctypes.CDLL(str(_FOLDER / name))
            tf.load_library(str(self._path))
        except (OSError, RuntimeError, tf.errors.OpError) as error:
            return f"{type(error).__name__}: {error}"
        return None


def _build_fact(name: str) -> Any:
    try:
        return getattr(importlib.import_module("fastneg._build_info"), name)
    except (ImportError, AttributeError):
        return "nothing is known of how fastneg was built"
