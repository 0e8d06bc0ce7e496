"""The tables of the proof, and where they go."""

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:  # It imports PyTorch.
    from gpu.timing import Inputs, Measured

    Results = Sequence[tuple[Inputs, list[Measured]]]


class Log:
    """Everything to a file, the essential to the screen too."""

    def __init__(self, path: Path) -> None:
        """Opens the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = path.open("w")

    def detail(self, text: str) -> None:
        """To the file alone."""
        self._file.write(text.rstrip("\n") + "\n")
        self._file.flush()

    def line(self, text: str = "") -> None:
        """To both."""
        self.detail(text)
        print(text, flush=True)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def times_table(results: "Results", bandwidth: float) -> str:
    """Milliseconds by contender, and what ours mean in bytes."""
    names = [measured.contender for measured in results[0][1]]
    head = ["B, K, D", "dtype", *names, "best other / fastneg", "of copy bandwidth", "from caches"]
    rows = []
    for inputs, all_measured in results:
        ours = _ours(all_measured)
        others = [
            m.time_ms
            for m in all_measured
            if not m.contender.startswith(("fastneg", "variant")) and m.samples_ms
        ]
        least_seconds = inputs.least_bytes / bandwidth
        rows.append(
            [
                ", ".join(map(str, inputs.shape)),
                inputs.dtype,
                *(_number(m.time_ms) if m.samples_ms else m.problem for m in all_measured),
                _number(min(others, default=math.nan) / ours),
                f"{100 * least_seconds / (1e-3 * ours):.0f}%",
                f"{inputs.gathered_bytes / (1e-3 * ours) / 1e12:.1f} TB/s",
            ]
        )
    return table(head, rows)


def memory_table(results: "Results") -> str:
    """Peak memory by contender."""
    names = [measured.contender for measured in results[0][1]]
    rows = [
        [
            ", ".join(map(str, inputs.shape)),
            inputs.dtype,
            *(_number(measured.peak_memory_mib) for measured in all_measured),
        ]
        for inputs, all_measured in results
    ]
    return table(["B, K, D", "dtype", *names], rows)


def save(folder: Path, name: str, text: str, facts: dict[str, Any]) -> None:
    """Writes `name`.md and `name`.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(text + "\n")
    (folder / f"{name}.json").write_text(json.dumps(_plain(facts), indent=1) + "\n")


def times_facts(results: "Results") -> list[dict[str, Any]]:
    """All samples, for the JSON file."""
    return [
        {
            "shape": inputs.shape,
            "dtype": inputs.dtype,
            "input_sets": len(inputs.sets),
            "least_bytes": inputs.least_bytes,
            "gathered_bytes": inputs.gathered_bytes,
            "contenders": [dataclasses.asdict(measured) for measured in all_measured],
        }
        for inputs, all_measured in results
    ]


def _ours(all_measured: "list[Measured]") -> float:
    """The time of the kernels alone where it is known: from a graph."""
    times = [m.time_ms for m in all_measured if m.contender.startswith("fastneg") and m.samples_ms]
    return min(times, default=math.nan)


def _number(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _plain(value: Any) -> Any:
    """NaN is no JSON."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
