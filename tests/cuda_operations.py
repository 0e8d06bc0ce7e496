"""Builds the operations on GPUs as CMake does, with nvcc's kernels or with the host's."""

import functools
import subprocess
from pathlib import Path

import cuda_on_host
import tensorflow as tf

import fastneg

OPERATIONS = ("RolledSoftmax", "ShuffledCosine", "SvSoftmax", "ScaleGrad")
LABEL = "fastneg_cuda_on_host"  # Of the kernels that stand in for those of a GPU.
OLDEST_TENSORFLOW = (2, 20)
_OPS = Path(fastneg.__file__).with_name("_ops.so")


def build(library: Path, kernels: Path, *, on_host: bool) -> None:
    """Builds `library` from the sources, linked with the CUDA kernels in `kernels`."""
    include, lib = Path(tf.sysconfig.get_include()), Path(tf.sysconfig.get_lib())
    csrc = cuda_on_host.ROOT / "csrc"
    external = (include / "external" / "highwayhash", include / "external" / "farmhash_archive/src")
    subprocess.run(
        [
            cuda_on_host.compiler() or "c++",
            *("-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-shared"),
            *("-Wall", "-Wextra", "-Werror"),
            *(flag for flag in tf.sysconfig.get_compile_flags() if flag.startswith("-D")),
            *(["-DFASTNEG_CUDA_ON_HOST"] if on_host else []),
            f"-I{csrc}",
            *(f"-isystem{folder}" for folder in (include, *external)),
            *(csrc / "tf_cxx" / "gpu_kernels.cc", csrc / "tf_ops" / "kernel_context.cc"),
            *("-Wl,--no-as-needed", _OPS, kernels),
            *(lib / f"libtensorflow_{name}.so.2" for name in ("cc", "framework")),
            *("-o", library),
        ],
        check=True,
    )


@functools.cache
def why_not() -> str | None:
    """Why it cannot be built here; None if it can."""
    if (reason := cuda_on_host.why_not()) is not None:
        return reason
    if not _OPS.exists():
        return "the native operations were not built"
    if tuple(int(part) for part in tf.__version__.split(".")[:2]) < OLDEST_TENSORFLOW:
        return f"the headers of TensorFlow {tf.__version__} are not complete"
    return None
