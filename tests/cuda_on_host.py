"""The CUDA kernels on the host, called on NumPy arrays.

What is built is `csrc/core/cuda`, unchanged, by the C++ compiler, with `core/cuda_on_host` in the
place of CUDA.
"""

import concurrent.futures
import ctypes
import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import problems

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "csrc" / "core" / "cuda"
STAND_IN = Path(__file__).parent / "core" / "cuda_on_host"

if (ROOT / "benchmarks").is_dir():
    sys.path.append(str(ROOT / "benchmarks"))

DEVICE_INDEX_OF_NONE = -1
_GUARD = 64  # Bytes around every result, to see that nothing writes there.


def compiler() -> str | None:
    """The C++ compiler's command."""
    return shutil.which(os.environ.get("CXX", "c++"))


LIBRARY = "cuda_on_host.so"


def build(folder: Path) -> None:
    """Compiles the kernels for the host into `folder`: LIBRARY there."""
    command = [
        compiler() or "c++",
        *("-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"),
        "-DFASTNEG_CUDA_BLOCKS_FOR_ALL=1",  # Rows in sets for small problems too.
        *("-Wno-unknown-pragmas", f"-I{STAND_IN}", f"-I{ROOT / 'csrc'}"),
    ]

    def compile_one(source: Path) -> Path:
        result = folder / (source.name + ".o")
        subprocess.run([*command, "-x", "c++", "-c", source, "-o", result], check=True)
        return result

    sources = [*SOURCES.rglob("*.cu"), *STAND_IN.glob("*.cc")]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sources))
    command = [compiler() or "c++", "-shared", *map(str, objects), "-o", str(folder / LIBRARY)]
    subprocess.run(command, check=True)


class Kernels:
    """The library, with NumPy arrays in and out."""

    def __init__(self, path: Path) -> None:
        from gpu import library

        self.path = path
        self._gpu = library
        self._library = library.Library(path)
        self._symbols = ctypes.CDLL(str(path))

    def set_order(self, order: int) -> None:
        """In which order blocks and threads run; 0: as they are numbered."""
        self._symbols.FastnegCudaOnHostSetOrder(ctypes.c_uint(order))

    def num_waits(self) -> int:
        """How often the host has waited for the device."""
        return int(self._symbols.FastnegCudaOnHostNumWaits())

    def refuse_next_launch(self) -> None:
        """The next kernel does not start: it was not compiled for this device."""
        self._symbols.FastnegCudaOnHostRefuseNextLaunch()

    def rolled(self, problem: problems.Problem, **changes: Any) -> dict[str, Any]:
        """softmax_loss_with_negative_mining's results."""
        args = self._gpu.RolledSoftmaxArgs()
        shifts = np.ascontiguousarray(problem.shifts, np.int64)
        args.shifts = shifts.ctypes.data
        args.num_negatives = len(shifts)
        options = {"gamma": 1.0, "margin": 0.0, "t": 1.0, **problem.options}
        return self._gathered(
            args, problem.user_emb, problem.item_emb, problem.labels, options, **changes
        )

    def shuffled(
        self, query: Any, doc: Any, permutations: Any, *, gamma: float = 20.0, **options: Any
    ) -> dict[str, Any]:
        """negative_cosine_loss's results."""
        args = self._gpu.ShuffledCosineArgs()
        args.permutation_dtype = self._dtype(permutations)
        args.permutations = permutations.ctypes.data
        args.num_negatives = len(permutations)
        return self._gathered(
            args, query, doc, None, {"gamma": gamma, "margin": 0.0, "t": 1.0, **options}
        )

    def sv_softmax(
        self,
        pos_score: Any,
        neg_scores: Any,
        *,
        weights: Any = None,
        grads: bool = True,
        in_place: bool = False,
        narrow_grads: bool = False,
        scalars_on_device: bool = False,
        **options: float,
    ) -> dict[str, Any]:
        """support_vector_guided_softmax_loss's results."""
        compute = problems.compute_dtype(neg_scores.dtype)
        num_rows, num_negatives = neg_scores.shape
        negatives = _Guarded(neg_scores.shape, neg_scores.dtype)
        negatives.array[...] = neg_scores
        args = self._gpu.SvSoftmaxArgs(
            num_rows=num_rows,
            num_negatives=num_negatives,
            dtype=self._dtype(neg_scores),
            pos_score=pos_score.ctypes.data,
            neg_scores=negatives.pointer,
            weights=None if weights is None else weights.ctypes.data,
            narrow_grads=narrow_grads,
        )
        scalars = {"margin": 0.0, "t": 1.0, "smooth": 1.0, "threshold": 0.0, **options}
        _set_scalars(args, scalars, compute if scalars_on_device else None)
        results = {"loss": _Guarded((1,), compute)}
        if weights is not None:
            results["grad_weights"] = _Guarded((num_rows,), compute)
        if grads:
            of_scores = neg_scores.dtype if narrow_grads else compute
            results["grad_pos"] = _Guarded((num_rows,), of_scores)
            results["grad_neg"] = negatives if in_place else _Guarded(neg_scores.shape, of_scores)
            results["grad_scalars"] = _Guarded((3,), compute)
        return self._run(args, results)

    def _gathered(
        self,
        args: Any,
        user_emb: Any,
        item_emb: Any,
        labels: Any,
        options: dict[str, Any],
        *,
        grads: bool = True,
        strides: tuple[int, int] | None = None,
        scalars_on_device: bool = False,
    ) -> dict[str, Any]:
        compute = problems.compute_dtype(user_emb.dtype)
        batch_size, dim = user_emb.shape
        args.batch_size, args.embedding_dim = batch_size, dim
        args.dtype = self._dtype(user_emb)
        args.user_emb, args.item_emb = user_emb.ctypes.data, item_emb.ctypes.data
        args.user_row_stride, args.item_row_stride = strides or (dim, dim)
        args.embed_normed = options.get("embed_normed", False)
        scalars = {name: options[name] for name in ("gamma", "margin", "t")}
        scalars["negative_weight"] = options.get("negative_weight", 1.0)
        _set_scalars(args, scalars, compute if scalars_on_device else None)
        args.positive_in_softmax = options.get("positive_in_softmax", True)
        args.refined = options.get("correction") == "refined"
        args.positive_in_softmax &= not args.refined
        if labels is not None:
            args.label_dtype = self._dtype(labels)
            args.labels = labels.ctypes.data
        weights = options.get("weights")
        if weights is not None:
            args.weights = weights.ctypes.data
        probability = options.get("candidate_sampling_probability")
        if probability is not None:
            args.sampling_probability = probability.ctypes.data
        ids = options.get("candidate_ids")
        if ids is not None:
            ids = np.ascontiguousarray(ids, np.int64)
            args.candidate_ids = ids.ctypes.data
        results = {"loss": _Guarded((1,), compute), "error_index": _Guarded((1,), np.int64)}
        if weights is not None and grads:
            results["grad_weights"] = _Guarded((batch_size,), compute)
        if grads:
            results["grad_user"] = _Guarded((batch_size, dim), compute)
            results["grad_item"] = _Guarded((batch_size, dim), compute)
            results["grad_scalars"] = _Guarded((3,), compute)
        return self._run(args, results)

    def _run(self, args: Any, results: dict[str, "_Guarded"]) -> dict[str, Any]:
        for name, result in results.items():
            setattr(args, name, result.pointer)
        workspace = _Guarded((self._library.workspace_bytes(args),), np.uint8)
        args.workspace, args.workspace_bytes = workspace.pointer, workspace.array.size
        self._library.run(args)
        for name, result in {**results, "workspace": workspace}.items():
            assert result.guards_are_whole(), name
        return {
            name: result.array[0] if name in ("loss", "error_index") else result.array
            for name, result in results.items()
        }

    def _dtype(self, array: Any) -> int:
        return self._gpu.DTYPES.index(str(array.dtype))


def _set_scalars(args: Any, scalars: dict[str, float], dtype: Any | None) -> None:
    """As numbers, or with a `dtype` on the device."""
    if dtype is None:
        for name, value in scalars.items():
            setattr(args, name, float(value))
        return
    args.kept_scalars = np.array(list(scalars.values()), dtype)
    for place, name in enumerate(scalars):
        address = args.kept_scalars.ctypes.data + place * args.kept_scalars.itemsize
        setattr(args.on_device, name, address)
        if name != "negative_weight":  # Which has to go with the options.
            setattr(args, name, float("nan"))


class _Guarded:
    """An array of poison, with bytes around it that must stay as they are."""

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._bytes = np.full(size + 3 * _GUARD, 0xAB, np.uint8)
        self._begin = _GUARD + -(self._bytes.ctypes.data) % _GUARD
        self._end = self._begin + size
        self._bytes[self._begin : self._end] = 0xFF  # NaN in every type.
        self.pointer = self._bytes.ctypes.data + self._begin
        self.array = self._bytes[self._begin : self._end].view(dtype).reshape(shape)

    def guards_are_whole(self) -> bool:
        around = (self._bytes[: self._begin], self._bytes[self._end :])
        return all(bool(np.all(part == 0xAB)) for part in around)


@functools.cache
def why_not() -> str | None:
    """Why the kernels cannot be built here; None if they can."""
    if not SOURCES.is_dir() or not (ROOT / "benchmarks" / "gpu").is_dir():
        return "the sources of the CUDA kernels are not here"
    if compiler() is None:
        return "there is no C++ compiler"
    if sys.platform != "linux":
        return "the stand-in for CUDA needs Linux"
    return None
