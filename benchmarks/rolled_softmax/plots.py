"""Draws what a loss with both gradients costs as the number of negatives and the batch grow.

A pytest run with --save-results does it.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from rolled_softmax.contenders import fastneg_contenders
from rolled_softmax.workloads import Workload, make_inputs

WIDTH = 64
BY_NEGATIVES = tuple(
    Workload(4096, negatives, WIDTH) for negatives in (16, 64, 128, 256, 512, 1024)
)
BY_BATCH = tuple(Workload(batch, 64, WIDTH) for batch in (1024, 4096, 8192, 16384, 32768))
SAMPLES = 9


def draw_cost(file_name: str) -> Path:
    """Measures both series and writes the picture; returns its path."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for backend in ("native", "numba"):
        _draw(axes[0], backend, BY_NEGATIVES, [w.num_negatives for w in BY_NEGATIVES])
        _draw(axes[1], backend, BY_BATCH, [w.batch_size for w in BY_BATCH])
    axes[0].set(xlabel="negatives K", title=f"batch 4096, width {WIDTH}")
    axes[1].set(xlabel="batch B", title=f"64 negatives, width {WIDTH}")
    for axis in axes:
        axis.set(ylabel="loss and both gradients, ms", xlim=(0, None), ylim=(0, None))
        axis.legend()
        axis.grid(alpha=0.3)
    path = Path(__file__).parents[1] / "results" / file_name
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path


def _draw(axis, backend: str, workloads: tuple[Workload, ...], sizes: list[int]) -> None:
    times_ms = [_time_ms(backend, workload) for workload in workloads]
    (line,) = axis.plot(sizes, times_ms, "o", label=backend)
    slope, fixed = np.polyfit(sizes, times_ms, 1)
    axis.plot(
        [0, sizes[-1]],
        [fixed, fixed + slope * sizes[-1]],
        "--",
        color=line.get_color(),
        linewidth=1,
        label=f"{backend}: straight line, {1e3 * slope:.3g} µs each",
    )


def _time_ms(backend: str, workload: Workload) -> float:
    (contender,) = [c for c in fastneg_contenders() if c.name == f"fastneg {backend}"]
    run = contender.build(workload, make_inputs(workload))
    run(2)
    times = []
    for _ in range(SAMPLES):
        start = time.perf_counter()
        run(3)
        times.append((time.perf_counter() - start) / 3)
    return 1e3 * sorted(times)[SAMPLES // 2]
