"""What `python -m pytest benchmarks --save-results NAME` saved, for the site and the README."""

import re
from dataclasses import dataclass
from pathlib import Path

import tomllib

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"
FASTNEG, PUBLISHED, FASTEST = "fastneg native", "published, graph", "best TensorFlow form"


@dataclass(frozen=True)
class Board:
    """A table of one loss on one machine."""

    machine: str
    sizes: str
    workloads: tuple[str, ...]
    rows: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]

    def row(self, label: str) -> tuple[str, ...]:
        """A row's cells, "-" where there is none."""
        return self.rows.get(label, ("-",) * len(self.workloads))

    def cell(self, label: str, column: int) -> str:
        """A single one."""
        return self.row(label)[column]

    def in_float32(self) -> list[int]:
        """The columns without a name of another type."""
        return [j for j, name in enumerate(self.workloads) if not re.search("[a-z]", name)]

    def fastest_ms(self, column: int) -> str:
        """The time of the fastest TensorFlow form."""
        return self.cell(f"{self.cell(FASTEST, column)}: ms", column)


def machines() -> dict[str, dict[str, str]]:
    """What there is to say about machines, in the order in which they are shown."""
    return tomllib.loads((Path(__file__).parent / "machines.toml").read_text())


def boards(stem: str) -> list[Board]:
    """The tables of a loss; those of machines that nothing is said about come first."""
    order = list(machines())
    names = [path.name[len(stem) + 1 : -3] for path in RESULTS.glob(f"{stem}-*.md")]
    names.sort(key=lambda name: (name in order, order.index(name) if name in order else 0, name))
    return [_read(RESULTS / f"{stem}-{name}.md", name) for name in names]


def _read(path: Path, machine: str) -> Board:
    lines = path.read_text().splitlines()
    table = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("|") and not re.fullmatch(r"[|:\- ]+", line)
    ]
    # 2.32e+03x is easier to read as 2320x.
    table = [
        [re.sub(r"^(\d\S*e\+\d+)(x?)$", lambda m: f"{float(m[1]):.0f}{m[2]}", cell) for cell in row]
        for row in table
    ]
    return Board(
        machine,
        table[0][0],
        tuple(table[0][1:]),
        {row[0]: tuple(row[1:]) for row in table[1:]},
        tuple(line for line in lines if line and not line.startswith("|")),
    )
