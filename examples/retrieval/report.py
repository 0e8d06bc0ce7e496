"""The tables printed at the end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .training import TrainingRun


def results_table(runs: Sequence[TrainingRun]) -> str:
    """Quality and cost of each run, one row per run."""
    header = (
        runs[0].negatives_symbol,
        "loss",
        "steps",
        "Recall@20",
        "NDCG@20",
        "minutes",
        "ms per step",
    )
    rows = []
    for run in runs:
        last = run.checkpoints[-1]
        rows.append(
            (
                str(run.num_negatives),
                run.title,
                f"{len(run.losses):,}"
                + ("" if run.is_complete else f" of {run.num_planned_steps:,}"),
                f"{last.quality.recall:.4f}",
                f"{last.quality.ndcg:.4f}",
                f"{last.minutes:.2f}",
                f"{run.step_ms:.2f}",
                _or_unknown(run.stage_ms.get("loss"), ".2f"),
                _or_unknown(run.peak_memory_mib, ",.0f"),
            )
        )
    return _table((*header, "ms in the loss", "peak extra MiB"), rows)


def stages_table(runs: Sequence[TrainingRun]) -> str:
    """Milliseconds of each stage of a training step."""
    rows = [
        (str(run.num_negatives), run.title, *(f"{ms:.2f}" for ms in run.stage_ms.values()))
        for run in runs
    ]
    stages = [f"{stage} ms" for stage in runs[0].stage_ms]
    return _table((runs[0].negatives_symbol, "loss", *stages), rows)


def comparison(plain: TrainingRun, fused: TrainingRun) -> str:
    """How far apart the loss curves are, and the ratios of time."""
    shared = min(len(plain.losses), len(fused.losses))
    difference = np.abs(plain.losses[:shared].astype(np.float64) - fused.losses[:shared])
    text = (
        f"{fused.size}, beside {plain.title}: the loss curves differ by at most "
        f"{difference.max():.1e} over {shared:,} shared steps "
        f"(loss {fused.losses[0]:.3f} to {fused.losses[shared - 1]:.3f}); "
        f"a step is {plain.step_ms / fused.step_ms:.1f} times as fast"
    )
    if plain.stage_ms.get("loss") and fused.stage_ms.get("loss"):
        text += f", the loss alone {plain.stage_ms['loss'] / fused.stage_ms['loss']:.1f} times"
    return text + "."


def _or_unknown(value: float | None, form: str) -> str:
    return "unknown" if value is None else format(value, form)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns under a rule; the second column is text, the others are numbers."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 1 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (header, ["-" * width for width in widths], *rows)
    ]
    return "\n".join(lines)
