"""What the proof needs of a machine, and building the kernels there."""

import importlib.util
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def nvcc() -> str | None:
    """Where nvcc is."""
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def missing() -> list[str]:
    """What the proof needs and this machine does not have, in words."""
    lacks = []
    if nvcc() is None:
        lacks.append("nvcc (CUDA's compiler)")
    if shutil.which("cmake") is None:
        lacks.append("CMake")
    if importlib.util.find_spec("torch") is None:
        lacks.append("PyTorch")
    else:
        import torch

        if not torch.cuda.is_available():
            lacks.append("a GPU that PyTorch can use")
    return lacks


def describe() -> dict[str, Any]:
    """The machine and its software, for the record."""
    import torch

    properties = torch.cuda.get_device_properties(0)
    facts = {
        "gpu": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "l2_mib": l2_bytes() / 2**20,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": platform.machine(),
        "nvcc": _output(nvcc() or "nvcc", "--version").strip().splitlines()[-1],
    }
    driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    facts["driver"] = driver.strip().splitlines()[0] if driver.strip() else "unknown"
    return facts


# Never as many blocks as that: every row by itself, however close the shifts.
ROWS_ALONE = "-DFASTNEG_CUDA_BLOCKS_FOR_ALL=33554431"


def l2_bytes() -> int:
    """The size of the GPU's second-level cache; a guess where PyTorch does not tell."""
    import torch

    return int(getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 64 << 20))


def build(folder: Path, log: Any, *, flags: str = "") -> tuple[Path, Path, Path]:
    """Compiles for this machine's GPU; returns the kernels, the C++ test, and `libfastneg.so`.

    `flags` make a variant of the kernels, without the others.
    """
    import torch

    major, minor = torch.cuda.get_device_capability()
    configure = [
        *("cmake", "-S", str(ROOT), "-B", str(folder), "-DCMAKE_BUILD_TYPE=Release"),
        *("-DFASTNEG_CUDA=ON", f"-DCMAKE_CUDA_ARCHITECTURES={major}{minor}"),
        *(f"-DCMAKE_CUDA_COMPILER={nvcc()}", f"-DCMAKE_CUDA_FLAGS=-Xptxas=-v {flags}"),
    ]
    if shutil.which("ninja") and not (folder / "CMakeCache.txt").exists():
        configure += ["-G", "Ninja"]
    targets = ["fastneg_cuda"]
    if not flags:
        targets += ["fastneg_cuda_test", "fastneg_library"]
    compile_all = ["cmake", "--build", str(folder), "-j", str(os.cpu_count()), "--target", *targets]
    for command in (configure, compile_all):
        run = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        log.detail(run.stdout)
        if run.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} must succeed:\n{run.stdout[-4000:]}")
    package = folder / "fastneg"
    return package / "_cuda.so", folder / "fastneg_cuda_test", package / "libfastneg.so"


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout or "?"
    except OSError:
        return "unknown"
