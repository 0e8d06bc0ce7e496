"""The machine's limits: multiply-add peak and read bandwidth of every level of memory."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


@dataclasses.dataclass(frozen=True)
class MachineLimits:
    """Peaks of all threads together."""

    num_threads: int
    fma_gflops: float
    read_gb_per_s: dict[str, float]  # By level: "L1", "L2", "L3", "DRAM".

    def __str__(self) -> str:
        """One line for the foot of the table."""
        reads = ", ".join(f"{level} {speed:.0f}" for level, speed in self.read_gb_per_s.items())
        return (
            f"{self.num_threads} threads: FMA peak {self.fma_gflops:.0f} GFLOP/s; "
            f"read bandwidth in GB/s: {reads}"
        )


def measure_limits(num_threads: int) -> MachineLimits | None:
    """Measures the limits with all threads at once; None without fastneg's pybind11 module."""
    try:
        from fastneg import _core
    except ImportError:
        return None

    def together(probe: Callable[[], float]) -> float:
        with ThreadPoolExecutor(num_threads) as pool:
            return sum(pool.map(lambda _: probe(), range(num_threads)))

    return MachineLimits(
        num_threads=num_threads,
        fma_gflops=together(_core.measure_fma_peak),
        read_gb_per_s={
            level: together(lambda size=size: _core.measure_read_bandwidth(size))
            for level, size in _buffer_bytes().items()
        },
    )


def _buffer_bytes() -> dict[str, int]:
    """A buffer size for one thread that lies in each level and not in the one before."""
    l1 = _cache_bytes("SC_LEVEL1_DCACHE_SIZE", 32 << 10)
    l2 = _cache_bytes("SC_LEVEL2_CACHE_SIZE", 1 << 20)
    l3 = _cache_bytes("SC_LEVEL3_CACHE_SIZE", 16 << 20)
    return {
        "L1": l1 // 2,
        "L2": l2 // 2,
        "L3": min(4 * l2, max(l3 // 4, 2 * l2)),
        "DRAM": min(max(2 * l3, 128 << 20), 1 << 30),
    }


def _cache_bytes(name: str, default: int) -> int:
    try:
        return os.sysconf(name) or default
    except (ValueError, OSError):
        return default
