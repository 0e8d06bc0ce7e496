"""The row options that tests of the rolled and the shuffled loss share."""

from typing import Any

from hypothesis import strategies as st

OUT = {"positive_in_softmax": False}

# What there is besides the defaults; refined needs probabilities.
ROW_OPTIONS: dict[str, dict[str, Any]] = {
    "decoupled": OUT,
    "bilateral": {**OUT, "negative_weight": 1.22},
    "no negatives' weight": {**OUT, "negative_weight": 0.0},
    "hardly any weight": {**OUT, "negative_weight": 1e-12},
    "negative weight": {**OUT, "negative_weight": -0.5},
    "refined": {"correction": "refined"},
    "refined bilateral": {"correction": "refined", "negative_weight": 0.8},
}


@st.composite
def any_row_options(draw: st.DrawFn, has_probabilities: bool) -> dict[str, Any]:
    """Options that go together."""
    options: dict[str, Any] = {}
    if has_probabilities and draw(st.booleans()):
        options["correction"] = "refined"
    if "correction" not in options or draw(st.booleans()):
        options["positive_in_softmax"] = False
    if draw(st.booleans()):
        options["negative_weight"] = draw(st.sampled_from([1.0, 1.22, 0.3, 0.0, 1e-7, -1.0, 50.0]))
    return options
