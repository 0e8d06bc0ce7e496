"""Whether XLA can call fastneg's operations, and where they are called through it.

TensorFlow's own operation on the CPU costs least. XLA's custom calls are for functions that XLA
compiles, and for everything on GPUs. Where they are not to be had, such functions use the reference
composition.
"""

import ctypes
import functools

import tensorflow as tf

from fastneg import _tensorflow
from fastneg.backends.native import cuda
from fastneg.backends.native.custom_call import TARGET, gradient_of_xla_call_module
from fastneg.backends.native.symbols import PATH, symbols

# The losses, and what belongs to them, that have custom calls.
_ON_CPUS = frozenset(
    {
        *cuda.LOSSES,
        "in_batch_softmax",
        "pairwise_logistic",
        "positive_ranks",
        "random_permutations",
        "sampled_softmax",
    }
)


def load() -> None:
    """Tells XLA of the handlers, if it takes any."""
    if PATH.exists() and why_not_loaded() is None and cuda.why_not_loaded() is None:
        _register("CUDA", is_cuda=True)


@functools.cache
def why_not_loaded() -> str | None:
    """Returns None if XLA has the handler, else the reason why not."""
    try:
        _register("Host", is_cuda=False)
        _tensorflow.register_gradient_of_xla_call_modules(gradient_of_xla_call_module)
    except (ImportError, OSError) as error:
        return str(error)
    return None


def calls(loss: str) -> bool:
    """Whether XLA can call `loss` from a function that it compiles for any device there is."""
    if loss not in _ON_CPUS or why_not_loaded() is not None:
        return False
    kinds = _device_kinds()
    if loss in cuda.LOSSES and cuda.why_not_loaded() is None:
        kinds = kinds - {"GPU"}
    return kinds <= {"CPU"}


def is_the_way(loss: str) -> bool:
    """Whether `loss` is to be called through XLA here: in a function for XLA, or on a GPU."""
    if _tensorflow.in_xla():
        return calls(loss)
    return loss in cuda.LOSSES and cuda.why_not_loaded() is None and "GPU" in _device_kinds()


def platforms(loss: str) -> list[str]:
    """XLA's names of where `loss` may run."""
    on_gpus = loss in cuda.LOSSES and cuda.why_not_loaded() is None and "GPU" in _device_kinds()
    return ["CPU", "CUDA"] if on_gpus else ["CPU"]


def _device_kinds() -> frozenset[str]:
    return frozenset(device.device_type for device in tf.config.list_logical_devices())


def _register(platform: str, *, is_cuda: bool) -> None:
    problem = symbols().FastnegRegisterXlaHandler(
        ctypes.c_void_p(_tensorflow.xla_handler_interface()),
        TARGET.encode(),
        platform.encode(),
        is_cuda,
    )
    if problem is not None:
        raise ImportError(f"XLA did not take the handler: {problem.decode()}")
