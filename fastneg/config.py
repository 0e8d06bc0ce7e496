"""Which backend computes the losses, and what there is to know about this installation."""

import importlib
import os
import platform
import threading
from types import TracebackType
from typing import Any

import tensorflow as tf

from fastneg import backends
from fastneg.version import __version__

_CHOICES = ("auto", *backends.NAMES)

_lock = threading.RLock()
_default: str | None = None  # None: what FASTNEG_BACKEND says.
_overrides: list["use_backend"] = []  # Entered contexts, the innermost last.
_resolved: tuple[str, backends.Backend] | None = None  # The choice in force, once it was needed.


class use_backend:  # noqa: N801 - used like a function.
    """Chooses the backend, from here on or inside a `with` block.

    The choice is made while a loss is called or traced: a `tf.function` keeps the backend that it
    was traced with. It holds for all threads, because TensorFlow traces in threads of its own.
    Inside a function compiled by XLA the reference composition takes the place of a backend that
    XLA cannot call: of "numba", and of "native" without its operations for XLA (see `xla` in
    `build_info`).

    Args:
        name: "auto" (the first of "native", "numba", "reference" that works), or one of these. A
            backend named explicitly is never replaced by another one.

    Raises:
        ValueError: There is no such backend.
        fastneg.BackendUnavailableError: The backend cannot be loaded; the message says why.

    Example:
        >>> fastneg.use_backend("reference")
        fastneg.use_backend('reference')
        >>> with fastneg.use_backend("auto"):
        ...     fastneg.build_info()["backend_chosen"]
        'auto'
    """

    def __init__(self, name: str) -> None:
        """Makes the choice; a `with` block takes it back at its end."""
        _check_name(name, "`name`")
        if name != "auto":
            backends.load(name)
        global _default
        with _lock:
            self._name = name
            self._outer = _overrides[-1] if _overrides else None
            self._previous = self._outer._name if self._outer else _default
            if self._outer:
                self._outer._name = name
            else:
                _default = name
            _forget_resolved()

    def __enter__(self) -> "use_backend":
        """Turns the choice into one for this block."""
        global _default
        with _lock:
            # What the constructor set for good becomes an override, which ends with the block.
            if self._outer is not None and self._previous is not None:
                self._outer._name = self._previous
            else:
                _default = self._previous
            _overrides.append(self)
            _forget_resolved()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Ends the choice."""
        with _lock:
            _overrides.remove(self)
            _forget_resolved()

    def __repr__(self) -> str:
        """Shows how to make the same choice."""
        return f"fastneg.use_backend({self._name!r})"


def active_backend() -> backends.Backend:
    """Returns the backend in force."""
    return (_resolved or _resolve())[1]


def backend_with(function: str) -> backends.Backend:
    """Returns the first backend that has `function`, where the one in force has it not.

    Raises:
        fastneg.BackendUnavailableError: The backend in force was asked for by name.
    """
    chosen = _chosen()
    if chosen != "auto":
        raise backends.BackendUnavailableError(
            f'The backend must have `{function}`, as "reference" has. Received: "{chosen}".'
        )
    return backends.load_first(function)[1]


def _resolve() -> tuple[str, backends.Backend]:
    global _resolved
    with _lock:
        if _resolved is None:
            name = _chosen()
            _resolved = backends.load_first() if name == "auto" else (name, backends.load(name))
        return _resolved


def _chosen() -> str:
    if _overrides:
        return _overrides[-1]._name
    if _default is not None:
        return _default
    name = os.environ.get("FASTNEG_BACKEND") or "auto"
    _check_name(name, "The environment variable FASTNEG_BACKEND")
    return name


def _forget_resolved() -> None:
    global _resolved
    _resolved = None


def _check_name(name: str, what: str) -> None:
    if name not in _CHOICES:
        expected = ", ".join(f'"{choice}"' for choice in _CHOICES)
        raise ValueError(f"{what} must be one of {expected}. Received: {name!r}.")


def build_info() -> dict[str, Any]:
    """Describes this installation: versions, the backends and why one does not load, the processor.

    Returns:
        A dictionary of plain values. `backend` is the name of the one in use, or None if the chosen
        one cannot be loaded; `backends` maps each name to None or to the reason why it cannot be
        loaded. `cuda` and `xla` are "loaded" if the native backend's operations on GPUs and inside
        XLA are, else the reason why not.
    """
    with _lock:
        chosen = _chosen()
        in_use = chosen if chosen != "auto" else backends.load_first()[0]
    reasons = {name: backends.why_unavailable(name) for name in backends.NAMES}
    info: dict[str, Any] = {
        "version": __version__,
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "machine": platform.machine(),
        "backend_chosen": chosen,
        "backend": in_use if reasons[in_use] is None else None,
        "backends": reasons,
        "cuda": _describe_library("cuda"),
        "xla": _describe_library("xla"),
    }
    for name in backends.NAMES:
        if reasons[name] is None:
            for key, value in backends.load(name).describe().items():
                info[f"{name}_{key}"] = value
    return info


def _describe_library(name: str) -> str:
    module = importlib.import_module(f"fastneg.backends.native.{name}")
    return module.why_not_loaded() or "loaded"


def show_config() -> None:
    """Prints what `build_info` returns, one fact per line."""
    for key, value in build_info().items():
        if isinstance(value, dict):
            for name, reason in value.items():
                print(f"{key + '.' + name:<24} {'loaded' if reason is None else reason}")
        else:
            print(f"{key:<24} {value}")
