"""The CUDA library through ctypes.

The arguments are those of `csrc/core/api.h`, the entries those of `csrc/core/cuda/c_api.h`. Nothing
is known of arrays here: pointers are numbers, so that PyTorch tensors on a GPU and NumPy arrays for
the kernels' host build go the same way.
"""

import ctypes
import enum
from pathlib import Path
from typing import Any

DTYPES = (
    "bool",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "float16",
    "bfloat16",
    "float32",
    "float64",
)


class Status(enum.IntEnum):
    """What a call returns."""

    OK = 0
    INVALID_SIZE = 1
    UNSUPPORTED_DTYPE = 2
    NULL_POINTER = 3
    SHIFT_IS_MULTIPLE = 4
    NOT_A_PERMUTATION = 5
    WORKSPACE_TOO_SMALL = 6
    ISA_UNAVAILABLE = 7
    ZERO_TEMPERATURE = 8
    ID_OUT_OF_RANGE = 9
    NO_DEVICE = 10
    DEVICE_FAILURE = 11
    INVALID_OPTION = 12


class CallError(RuntimeError):
    """A call did not return OK."""

    def __init__(self, function: str, status: Status, error: str) -> None:
        """Names the function, the status and CUDA's own last error."""
        cuda = "" if error == "cudaSuccess" else f" ({error})"
        super().__init__(f"{function} must return OK. Received: {status.name}{cuda}.")
        self.status = status


class _Executor(ctypes.Structure):
    _fields_ = (
        ("self", ctypes.c_void_p),
        ("num_threads", ctypes.c_int),
        ("run", ctypes.c_void_p),
    )


class GatheredDeviceScalars(ctypes.Structure):
    """Where the device has parameters that the host does not know."""

    _fields_ = tuple(
        (name, ctypes.c_void_p) for name in ("gamma", "margin", "t", "negative_weight")
    )


class SvDeviceScalars(ctypes.Structure):
    """Where the device has parameters that the host does not know."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("smooth", "margin", "t", "threshold"))


class GatheredSoftmaxArgs(ctypes.Structure):
    """What both gathered losses take.

    The positive is in the softmax unless an argument says otherwise.
    """

    _fields_ = (
        ("batch_size", ctypes.c_int64),
        ("embedding_dim", ctypes.c_int64),
        ("num_negatives", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
        ("user_emb", ctypes.c_void_p),
        ("item_emb", ctypes.c_void_p),
        ("user_row_stride", ctypes.c_int64),
        ("item_row_stride", ctypes.c_int64),
        ("embed_normed", ctypes.c_bool),
        ("label_dtype", ctypes.c_int32),
        ("labels", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("gamma", ctypes.c_double),
        ("margin", ctypes.c_double),
        ("t", ctypes.c_double),
        ("sampling_probability", ctypes.c_void_p),
        ("candidate_ids", ctypes.c_void_p),
        ("refined", ctypes.c_bool),
        ("positive_in_softmax", ctypes.c_bool),
        ("negative_weight", ctypes.c_double),
        ("on_device", GatheredDeviceScalars),
        ("loss", ctypes.c_void_p),
        ("grad_user", ctypes.c_void_p),
        ("grad_item", ctypes.c_void_p),
        ("grad_weights", ctypes.c_void_p),
        ("grad_scalars", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
        ("workspace_bytes", ctypes.c_size_t),
        ("executor", _Executor),
        ("error_index", ctypes.c_void_p),
    )

    def __init__(self, **values: Any) -> None:  # noqa: D107
        super().__init__(**{"positive_in_softmax": True, "negative_weight": 1.0, **values})


class RolledSoftmaxArgs(GatheredSoftmaxArgs):
    """softmax_loss_with_negative_mining."""

    _fields_ = (("shifts", ctypes.c_void_p),)


class ShuffledCosineArgs(GatheredSoftmaxArgs):
    """negative_cosine_loss."""

    _fields_ = (("permutation_dtype", ctypes.c_int32), ("permutations", ctypes.c_void_p))


class SvSoftmaxArgs(ctypes.Structure):
    """support_vector_guided_softmax_loss."""

    _fields_ = (
        ("num_rows", ctypes.c_int64),
        ("num_negatives", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
        ("pos_score", ctypes.c_void_p),
        ("neg_scores", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("margin", ctypes.c_double),
        ("t", ctypes.c_double),
        ("smooth", ctypes.c_double),
        ("threshold", ctypes.c_double),
        ("on_device", SvDeviceScalars),
        ("loss", ctypes.c_void_p),
        ("narrow_grads", ctypes.c_bool),
        ("grad_pos", ctypes.c_void_p),
        ("grad_neg", ctypes.c_void_p),
        ("grad_weights", ctypes.c_void_p),
        ("grad_scalars", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
        ("workspace_bytes", ctypes.c_size_t),
        ("executor", _Executor),
    )


Args = RolledSoftmaxArgs | ShuffledCosineArgs | SvSoftmaxArgs

_NAMES: dict[type[ctypes.Structure], str] = {
    RolledSoftmaxArgs: "RolledSoftmax",
    ShuffledCosineArgs: "ShuffledCosine",
    SvSoftmaxArgs: "SvSoftmax",
}


class Library:
    """One build of the kernels."""

    def __init__(self, path: Path) -> None:
        """Opens the library and compares the sizes of the argument structs."""
        self._symbols = ctypes.CDLL(str(path))
        for struct, name in _NAMES.items():
            size = self._function(name + "ArgsBytes", ctypes.c_size_t)()
            if size != ctypes.sizeof(struct):
                raise RuntimeError(
                    f"{name}Args must have the size that {path} was compiled with, {size} bytes. "
                    f"Received: {ctypes.sizeof(struct)}."
                )

    def device_status(self) -> Status:
        """Whether there is a GPU that CUDA can use."""
        return Status(self._function("DeviceStatus", ctypes.c_int32)())

    def workspace_bytes(self, args: Args) -> int:
        """The workspace that a call needs; 0 for sizes that it refuses."""
        function = self._function(_NAMES[type(args)] + "WorkspaceBytes", ctypes.c_size_t)
        return int(function(ctypes.byref(args)))

    def run(self, args: Args, stream: int = 0) -> None:
        """Puts a call on a stream.

        Raises:
            CallError: It did not return OK.
        """
        name = _NAMES[type(args)]
        function = self._function(name, ctypes.c_int32)
        status = Status(function(ctypes.byref(args), ctypes.c_void_p(stream)))
        if status != Status.OK:
            error = self._function("LastErrorName", ctypes.c_char_p)()
            raise CallError(name, status, error.decode())

    def _function(self, name: str, result: Any) -> Any:
        function = getattr(self._symbols, "FastnegCuda" + name)
        function.restype = result
        return function
