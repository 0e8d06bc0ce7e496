"""Plots of measured times: what the forms of a loss take, over sizes and at one size.

They are drawn from the `benchmarks/results/*.json` of the first machine that has the loss, when the
site is built.
"""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape

from docutils import nodes
from docutils.parsers.rst import Directive
from saved_results import RESULTS, boards, machines
from sphinx.application import Sphinx

LEFT, RIGHT, TOP, HEIGHT, ROOM = 64, 430, 34, 250, 300
TEXT_STEP = 17


class Times:
    """Medians of one loss on one machine, in milliseconds."""

    def __init__(self, stem: str) -> None:
        """Reads the file."""
        self.machine = boards(stem)[0].machine
        self.path = RESULTS / f"{stem}-{self.machine}.json"
        saved = json.loads(self.path.read_text())
        self.peak_gflops = saved["limits"]["fma_gflops"]
        self._rows = {(row["contender"], row["workload"]): row for row in saved["results"]}

    def contenders(self) -> list[str]:
        """All of them, in their order."""
        return list(dict.fromkeys(contender for contender, _ in self._rows))

    def ms(self, contender: str, workload: str) -> float | None:
        """The median, or None where there is none."""
        return self._rows.get((contender, workload), {}).get("time_ms")

    def share_of_limit(self, contender: str, workload: str) -> float | None:
        """The least time that the machine allows by the median."""
        time = self.ms(contender, workload)
        return self._rows[contender, workload]["least_time_ms"] / time if time else None

    def caption(self, text: str) -> str:
        """A caption that says where this was measured."""
        about = machines().get(self.machine, {})
        title = about.get("title", self.machine.replace("-", " "))
        return f"{text} {title}. {about.get('note', '')}".strip()


@dataclass(frozen=True)
class Line:
    """A contender's values over sizes; `kind` is its class in pictures.css."""

    label: str
    kind: str
    values: list[float | None]


def line_chart(
    caption: str,
    what: str,
    sizes: list[tuple[str, float]],
    lines: Iterable[Line],
    tick: Callable[[float], str] | None = None,
) -> str:
    """Lines over sizes (their names and places): on a logarithmic axis with `tick`, else shares."""
    lines = [line for line in lines if any(value is not None for value in line.values)]
    known = [value for line in lines for value in line.values if value is not None]
    bottom = TOP + HEIGHT
    if tick is None:
        marks = [(share / 100, f"{share}%") for share in range(0, 101, 20)]
        low, high, place = 0.0, 1.0, float
    else:
        first, last = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
        marks = [(10.0**power, tick(10.0**power)) for power in range(first, last + 1)]
        low, high, place = float(first), float(last), math.log10
    places = [math.log2(at) for _, at in sizes]

    def x(at: float) -> float:
        return LEFT + 14 + (at - places[0]) / (places[-1] - places[0]) * (RIGHT - LEFT - 24)

    def y(value: float) -> float:
        return bottom - (place(value) - low) / (high - low) * HEIGHT

    parts = [f'<text class="quiet" x="4" y="14">{escape(what)}</text>']
    for value, name in marks:
        parts.append(f'<path class="grid" d="M{LEFT} {y(value):.1f}H{RIGHT}"/>')
        parts.append(f'<text class="end quiet" x="{LEFT - 8}" y="{y(value) + 4:.1f}">{name}</text>')
    for (name, _), at in zip(sizes, places, strict=True):
        for row, part in enumerate(name.split("\n")):
            below = bottom + 20 + 15 * row
            parts.append(f'<text class="middle quiet" x="{x(at):.1f}" y="{below}">{part}</text>')
    ends = []
    for line in lines:
        points = [
            (x(at), y(value))
            for at, value in zip(places, line.values, strict=True)
            if value is not None
        ]
        path = "L".join(f"{a:.1f} {b:.1f}" for a, b in points)
        parts.append(f'<path class="line {line.kind}" d="M{path}"/>')
        for (a, b), value in zip(points, filter(None, line.values), strict=True):
            number = f"{value:.0%}" if tick is None else tick(value)
            parts.append(
                f'<circle class="{line.kind}" cx="{a:.1f}" cy="{b:.1f}" r="4">'
                f"<title>{escape(line.label)}: {number}</title></circle>"
            )
        ends.append((points[-1], line))
    ends.sort(key=lambda end: end[0][1])
    for ((a, b), line), text_y in zip(ends, _apart([b for (_, b), _ in ends]), strict=True):
        parts.append(f'<path class="leader" d="M{a + 6:.1f} {b:.1f}L{RIGHT + 10} {text_y:.1f}"/>')
        parts.append(f'<circle class="{line.kind}" cx="{RIGHT + 18}" cy="{text_y:.1f}" r="4"/>')
        parts.append(f'<text x="{RIGHT + 28}" y="{text_y + 4:.1f}">{escape(line.label)}</text>')
    return _figure(caption, what, parts, RIGHT + ROOM, bottom + 44)


def _apart(places: list[float]) -> list[float]:
    """Sorted places, moved as far as texts there need."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + TEXT_STEP) if moved else place)
    limit = float(TOP + HEIGHT)
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], limit)
        limit = moved[i] - TEXT_STEP
    return moved


def bar_chart(caption: str, what: str, times: list[tuple[str, str, float]]) -> str:
    """Labels, kinds and milliseconds, on a logarithmic axis, the slowest first."""
    times = sorted(times, key=lambda entry: -entry[2])
    left, right, step = 210, 620, 21
    low = math.floor(math.log10(times[-1][2]))
    high = math.ceil(math.log10(times[0][2]))
    bottom = TOP + step * len(times)

    def x(time: float) -> float:
        return left + (math.log10(time) - low) / (high - low) * (right - left)

    parts = [f'<text class="quiet" x="4" y="14">{escape(what)}</text>']
    for power in range(low, high + 1):
        at, name = x(10.0**power), _milliseconds(10.0**power)
        parts.append(f'<path class="grid" d="M{at:.1f} {TOP - 6}V{bottom}"/>')
        parts.append(f'<text class="middle quiet" x="{at:.1f}" y="{bottom + 18}">{name}</text>')
    for i, (label, kind, time) in enumerate(times):
        y = TOP + step * i + step / 2
        parts.append(f'<text class="end" x="{left - 10}" y="{y + 4}">{escape(label)}</text>')
        parts.append(f'<path class="line {kind}" d="M{left} {y}H{x(time):.1f}"/>')
        parts.append(f'<circle class="{kind}" cx="{x(time):.1f}" cy="{y}" r="4.5"/>')
        parts.append(f'<text x="{x(time) + 10:.1f}" y="{y + 4}">{_milliseconds(time)}</text>')
    return _figure(caption, what, parts, right + 90, bottom + 26)


def _figure(caption: str, what: str, parts: list[str], width: int, height: int) -> str:
    return (
        f'<figure class="picture"><svg viewBox="0 0 {width} {height}" role="img" width="{width}">'
        f"<title>{escape(what)}</title>{''.join(parts)}</svg>"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _milliseconds(ms: float) -> str:
    if ms >= 1000:
        return f"{ms / 1000:.3g} s"
    return f"{ms:.0f} ms" if ms >= 100 else f"{ms:.3g} ms"


def _nanoseconds(ns: float) -> str:
    unit, size = ("ns", 1.0) if ns < 1e3 else ("µs", 1e3) if ns < 1e6 else ("ms", 1e6)
    return f"{ns / size:.3g} {unit}"


def rolled_forms() -> tuple[Times, str]:
    """All forms of the rolled loss at one size."""
    times = Times("rolled_softmax")
    workload = "4096,64,128"
    own = {"published, graph": "published", "fastneg native": "fastneg", "fastneg numba": "numba"}
    found = []
    for contender in times.contenders():
        ms = times.ms(contender, workload)
        is_peer = contender.startswith(("JAX", "torch"))
        if ms is not None and contender not in ("empty step", "fastneg native, XLA"):
            kind = own.get(contender, "peer" if is_peer else "form")
            found.append((contender, kind, ms))
    forms = [entry for entry in found if entry[1] == "form" and "fastneg" not in entry[0]]
    fastest = min(forms, key=lambda entry: entry[2])
    found[found.index(fastest)] = (fastest[0], "fastest", fastest[2])
    text = (
        "All ways of writing the rolled loss that were measured: the loss and its gradients, batch "
        "4096, 64 negatives, width 128."
    )
    return times, bar_chart(times.caption(text), "loss and gradients", found)


def rolled_over_negatives() -> tuple[Times, str]:
    """Time for a row over the number of negatives."""
    times = Times("rolled_softmax")
    sizes = [(4096, 4, 64), (4096, 20, 64), (4096, 64, 128), (8192, 256, 64), (16384, 1024, 128)]

    def line(contender: str, kind: str, label: str) -> Line:
        values = []
        for rows, negatives, width in sizes:
            ms = times.ms(contender, f"{rows},{negatives},{width}")
            values.append(None if ms is None else 1e6 * ms / rows / (width / 64))
        return Line(label, kind, values)

    text = (
        "The rolled loss over its number of negatives, on logarithmic axes: time for one row and "
        "64 elements of its width, at batches of 4096 to 16384 rows. Forms that would need a "
        "stacked tensor of 24 GiB for 1024 negatives, or might, were not run there."
    )
    chart = line_chart(
        times.caption(text),
        "time per row and 64 of its width, over the negatives K",
        [(str(negatives), negatives) for _, negatives, _ in sizes],
        [
            line("published, graph", "published", "published"),
            line("full product, XLA", "form", "all products of the batch, XLA"),
            line("gather both ways, graph", "gathered", "gathered, gradient gathered too"),
            line("JAX jit, gather", "peer", "gathered in JAX"),
            line("looped slices, XLA", "fastest", "looped windows, gradient by hand, XLA"),
            line("fastneg numba", "numba", "fastneg, numba"),
            line("fastneg native", "fastneg", "fastneg"),
        ],
        _nanoseconds,
    )
    return times, chart


IN_BATCH_SIZES = [(512, 64), (1024, 64), (4096, 128), (8192, 128), (16384, 64), (65536, 64)]
IN_BATCH_FORMS = (
    ("published, graph", "published", "published"),
    ("sparse cross-entropy, graph", "gathered", "sparse cross-entropy"),
    ("logsumexp minus diagonal, graph", "form", "log-sum-exp minus diagonal"),
    ("logsumexp minus diagonal, XLA", "fastest", "log-sum-exp minus diagonal, XLA"),
    ("fastneg native", "fastneg", "fastneg"),
)


def _in_batch(
    text: str,
    what: str,
    value: Callable[[Times, str, str], float | None],
    tick: Callable[[float], str] | None,
) -> tuple[Times, str]:
    times = Times("in_batch_softmax")
    lines = [
        Line(label, kind, [value(times, form, f"{b},{b},{width}") for b, width in IN_BATCH_SIZES])
        for form, kind, label in IN_BATCH_FORMS
    ]
    sizes = [(f"{b}\n{width}", b) for b, width in IN_BATCH_SIZES]
    caption = times.caption(text.format(peak=f"{times.peak_gflops:.0f}"))
    return times, line_chart(caption, what, sizes, lines, tick)


def in_batch_over_batch() -> tuple[Times, str]:
    """Time over the batch."""
    return _in_batch(
        "The in-batch loss over its batch, on logarithmic axes; below the number of rows, the "
        "width. Plain forms end where their scores alone would take 16 GiB.",
        "loss and gradients, over rows and width",
        lambda times, form, workload: times.ms(form, workload),
        _milliseconds,
    )


def in_batch_share() -> tuple[Times, str]:
    """Share of the peak over the batch."""
    return _in_batch(
        "The same times as shares of what two threads could multiply and add at most, {peak} "
        "GFLOP/s as measured in the same run: three products of matrices, exponentials not "
        "counted.",
        "share of the multiply-add peak, over rows and width",
        lambda times, form, workload: times.share_of_limit(form, workload),
        None,
    )


PLOTS: dict[str, Callable[[], tuple[Times, str]]] = {
    function.__name__: function
    for function in (rolled_forms, rolled_over_negatives, in_batch_over_batch, in_batch_share)
}


class Measured(Directive):
    """`{measured} NAME`: a plot, in the page itself."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Reads the file, on which the page then depends."""
        times, plot = PLOTS[self.arguments[0]]()
        self.state.document.settings.record_dependencies.add(str(times.path))
        return [nodes.raw("", plot, format="html")]


def setup(app: Sphinx) -> None:
    """Registers the directive."""
    app.add_directive("measured", Measured)
