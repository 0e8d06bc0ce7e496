"""Calls of the handler of custom calls as XLA makes them, without XLA: version 0.1 of its C API."""

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_TYPES = {"int32": 4, "int64": 5, "float16": 10, "float32": 11, "float64": 12, "bfloat16": 16}
_BOOL, _INT64, _FLOAT64 = 1, 5, 12
_SCALAR, _STRING = 3, 4
_EXECUTE = 3


class _Buffer(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("extension_start", ctypes.c_void_p),
        ("dtype", ctypes.c_int32),
        ("data", ctypes.c_void_p),
        ("rank", ctypes.c_int64),
        ("dims", ctypes.POINTER(ctypes.c_int64)),
    )


class _Text(ctypes.Structure):
    _fields_ = (("pointer", ctypes.c_char_p), ("length", ctypes.c_size_t))


class _Scalar(ctypes.Structure):
    _fields_ = (("dtype", ctypes.c_int32), ("value", ctypes.c_void_p))


class _Buffers(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("extension_start", ctypes.c_void_p),
        ("size", ctypes.c_int64),
        ("types", ctypes.POINTER(ctypes.c_int32)),
        ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    )


class _Attributes(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("extension_start", ctypes.c_void_p),
        ("size", ctypes.c_int64),
        ("types", ctypes.POINTER(ctypes.c_int32)),
        ("names", ctypes.POINTER(ctypes.c_void_p)),
        ("values", ctypes.POINTER(ctypes.c_void_p)),
    )


class _Frame(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("extension_start", ctypes.c_void_p),
        ("api", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
        ("stage", ctypes.c_int32),
        ("arguments", _Buffers),
        ("results", _Buffers),
        ("attributes", _Attributes),
    )


def call(
    handler: Any,
    op: str,
    inputs: Sequence[np.ndarray],
    results: Sequence[np.ndarray],
    attributes: Mapping[str, bool | int | float],
) -> None:
    """Runs an operation that must not fail: there is nobody to tell of an error.

    Args:
        handler: The C function.
        op: The operation's name.
        inputs: Arrays, of whose elements nothing is read here.
        results: Likewise.
        attributes: Flags, counts and scalars.
    """
    kept: list[Any] = []
    frame = _Frame(ctypes.sizeof(_Frame), None, None, None, _EXECUTE)
    frame.arguments = _buffers(inputs, kept)
    frame.results = _buffers(results, kept)
    frame.attributes = _attributes(op, attributes, kept)
    handler.restype = ctypes.c_void_p
    assert handler(ctypes.byref(frame)) is None


def _buffers(arrays: Sequence[np.ndarray], kept: list[Any]) -> _Buffers:
    buffers = [
        _Buffer(
            ctypes.sizeof(_Buffer),
            None,
            _TYPES[str(array.dtype)],
            array.ctypes.data,
            array.ndim,
            (ctypes.c_int64 * max(1, array.ndim))(*array.shape),
        )
        for array in arrays
    ]
    kinds = (ctypes.c_int32 * len(arrays))(*[1] * len(arrays))
    pointers = _pointers(buffers)
    kept += [buffers, kinds, pointers]
    return _Buffers(ctypes.sizeof(_Buffers), None, len(arrays), kinds, pointers)


def _attributes(
    op: str, attributes: Mapping[str, bool | int | float], kept: list[Any]
) -> _Attributes:
    named = sorted({"op": op, **attributes}.items())  # As XLA sorts them.
    values: list[Any] = []
    for _, value in named:
        if isinstance(value, str):
            values.append(_Text(value.encode(), len(value)))
            continue
        if isinstance(value, bool):
            dtype, cell = _BOOL, ctypes.c_bool(value)
        elif isinstance(value, int):
            dtype, cell = _INT64, ctypes.c_int64(value)
        else:
            dtype, cell = _FLOAT64, ctypes.c_double(value)
        kept.append(cell)
        values.append(_Scalar(dtype, ctypes.addressof(cell)))
    names = [_Text(name.encode(), len(name)) for name, _ in named]
    texts = [isinstance(value, _Text) for value in values]
    kinds = (ctypes.c_int32 * len(values))(*[_STRING if text else _SCALAR for text in texts])
    name_pointers, value_pointers = _pointers(names), _pointers(values)
    kept += [values, names, kinds, name_pointers, value_pointers]
    size = ctypes.sizeof(_Attributes)
    return _Attributes(size, None, len(values), kinds, name_pointers, value_pointers)


def _pointers(structures: Sequence[ctypes.Structure]) -> Any:
    return (ctypes.c_void_p * len(structures))(*map(ctypes.addressof, structures))
