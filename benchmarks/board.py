"""What a run found out, and the table that it prints: one column per workload."""

from __future__ import annotations

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

from measure import MachineLimits
from suite import PUBLISHED, Suite, Workload

MIB = 2**20
BASELINE_KINDS = ("TensorFlow form", "peer")
RESULTS = Path(__file__).parent / "results"


def save_results(stem: str, name: str, text: str, content: Any) -> None:
    """Writes results/STEM-NAME.md, the tables, and results/STEM-NAME.json, plain values."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{stem}-{name}.md").write_text(text + "\n")
    (RESULTS / f"{stem}-{name}.json").write_text(json.dumps(content, indent=1) + "\n")


@dataclasses.dataclass
class Cell:
    """One contender at one workload: its times, or why there are none."""

    times_ms: list[float] = dataclasses.field(default_factory=list)
    problem: str | None = None
    refused: bool = False  # The result was wrong, so no time is shown.
    peak_extra_bytes: int | None = None
    thread_speedup: float | None = None  # Time on one thread / time on two.

    @property
    def time_ms(self) -> float | None:
        """The median over all rounds."""
        return statistics.median(self.times_ms) if self.times_ms and not self.refused else None


class Board:
    """Collects cells and prints them."""

    def __init__(
        self, suite: Suite, workloads: tuple[Workload, ...], contenders: dict[str, str]
    ) -> None:
        """Starts an empty board for contenders {name: kind}."""
        self.suite = suite
        self.workloads = workloads
        self.contenders = contenders
        self.cells: dict[tuple[str, str], Cell] = {}
        self.limits: MachineLimits | None = None

    def cell(self, workload: Workload, contender: str) -> Cell:
        """The cell, made at its first use."""
        return self.cells.setdefault((workload.name, contender), Cell())

    def time_ms(self, workload: Workload, contender: str) -> float | None:
        """The median time, if there is one."""
        return self.cell(workload, contender).time_ms

    def best(self, workload: Workload, kind: str) -> str | None:
        """The fastest contender of a kind."""
        times = {name: self.time_ms(workload, name) for name in self._names(kind)}
        timed = {name: time for name, time in times.items() if time is not None}
        return min(timed, key=timed.__getitem__) if timed else None

    def rows(self) -> list[list[str]]:
        """The table: a header row, times, then what follows from them."""
        columns = self.workloads
        rows = [[self.suite.sizes, *(workload.name for workload in columns)]]
        rows += [
            [f"{name}: ms", *(self._time(w, name) for w in columns)] for name in self.contenders
        ]
        for kind in BASELINE_KINDS:
            rows.append([f"best {kind}", *(self.best(w, kind) or "-" for w in columns)])
        least = [self._least_ms(workload) for workload in columns]
        rows.append(["machine's limit: ms", *map(_number, least)])
        for name in self._names("fastneg"):
            times = [self.time_ms(workload, name) for workload in columns]
            published = [self.time_ms(workload, PUBLISHED) for workload in columns]
            rows.append([f"published / {name}", *map(_ratio, published, times)])
            if self.suite.plain is not None:
                plain = [self.time_ms(workload, self.suite.plain) for workload in columns]
                rows.append([f"{name} / {self.suite.plain}", *map(_ratio, times, plain)])
                continue
            for kind in BASELINE_KINDS:
                best = [self.time_ms(w, self.best(w, kind) or "") for w in columns]
                rows.append([f"best {kind} / {name}", *map(_ratio, best, times)])
            rows.append([f"limit / {name}", *map(_share, least, times)])
            speedups = [self.cell(workload, name).thread_speedup for workload in columns]
            rows.append(
                [f"1 thread / 2 threads, {name}", *map(_ratio, speedups, [1.0] * len(speedups))]
            )
            halves = [w if w.dtype != "float32" else None for w in columns]
            in_float32 = [self.time_ms(w.in_float32, name) if w else None for w in halves]
            rows.append([f"{name} / its float32 time", *map(_ratio, times, in_float32)])
        best = [self.best(workload, "TensorFlow form") or "" for workload in columns]
        peaks = {
            PUBLISHED: [self.cell(w, PUBLISHED).peak_extra_bytes for w in columns],
            "best TensorFlow form": [
                self.cell(w, name).peak_extra_bytes for w, name in zip(columns, best, strict=True)
            ],
        }
        for name in self._names("fastneg"):
            peaks[name] = [self.cell(w, name).peak_extra_bytes for w in columns]
        rows += [[f"peak memory, {name}: MiB", *map(_mebibytes, p)] for name, p in peaks.items()]
        budgets = [workload.memory_budget_bytes for workload in columns]
        rows.append(["memory budget: MiB", *map(_mebibytes, budgets)])
        return [row for row in rows if any(cell != "-" for cell in row[1:])]

    def markdown(self) -> str:
        """The table and its notes."""
        rows = self.rows()
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["| " + " | ".join(_pad(row, widths)) + " |" for row in rows]
        lines.insert(
            1,
            "|"
            + "|".join("-" * (w + 1) + ("-" if i == 0 else ":") for i, w in enumerate(widths))
            + "|",
        )
        return "\n".join([*lines, "", *self.notes()])

    def notes(self) -> list[str]:
        """What the table cannot say: the machine, and why a cell is empty."""
        notes = [f"Machine: {self.limits}." if self.limits else "Machine: limits not measured."]
        reasons: dict[str, list[str]] = {}
        for (workload, contender), cell in self.cells.items():
            if cell.problem:
                reasons.setdefault(cell.problem, []).append(f"{contender} at {workload}")
        notes += [f"No time ({reason}): {'; '.join(who)}." for reason, who in reasons.items()]
        return notes

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values, for files."""
        return {
            "loss": self.suite.stem,
            "limits": dataclasses.asdict(self.limits) if self.limits else None,
            "results": [
                {
                    "workload": workload.name,
                    "contender": name,
                    "time_ms": self.time_ms(workload, name),
                    "times_ms": [round(time, 5) for time in self.cell(workload, name).times_ms],
                    "problem": self.cell(workload, name).problem,
                    "peak_extra_bytes": self.cell(workload, name).peak_extra_bytes,
                    "thread_speedup": self.cell(workload, name).thread_speedup,
                    "least_time_ms": self._least_ms(workload),
                    "memory_budget_bytes": workload.memory_budget_bytes,
                }
                for workload in self.workloads
                for name in self.contenders
            ],
        }

    def _time(self, workload: Workload, name: str) -> str:
        cell = self.cell(workload, name)
        return "WRONG" if cell.refused else _number(cell.time_ms)

    def _names(self, kind: str) -> list[str]:
        return [name for name, of_kind in self.contenders.items() if of_kind == kind]

    def _least_ms(self, workload: Workload) -> float | None:
        if self.limits is None or self.suite.least_time_ms is None:
            return None
        return self.suite.least_time_ms(self.limits, workload, self.suite.make_inputs(workload))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _mebibytes(value: int | None) -> str:
    return "-" if value is None else f"{value / MIB:.1f}"


def _ratio(top: float | None, bottom: float | None) -> str:
    return f"{top / bottom:.3g}x" if top and bottom else "-"


def _share(top: float | None, bottom: float | None) -> str:
    return f"{top / bottom:.0%}" if top and bottom else "-"


def _pad(row: list[str], widths: list[int]) -> list[str]:
    return [row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]
