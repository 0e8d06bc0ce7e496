"""The options that losses over a row's positive and negatives have in common."""

from typing import Any, TypedDict

from fastneg import validation
from fastneg.arguments.common import one_of

CORRECTIONS = ("standard", "refined")


class RowOptions(TypedDict):
    """Options that go together.

    Attributes:
        positive_in_softmax: Whether the positive's logit is among those that are summed.
        negative_weight: 1 where the positive is in the softmax.
        correction: "standard" or "refined"; refined has probabilities, and the positive is not in
            the softmax.
    """

    positive_in_softmax: bool
    negative_weight: float
    correction: str


def row_options(
    positive_in_softmax: Any, negative_weight: Any, correction: Any, probability: Any
) -> RowOptions:
    """Converts and checks the options; `probability` is None where there is no correction."""
    one_of("correction", correction, CORRECTIONS)
    refined = correction == "refined"
    in_softmax = validation.flag("positive_in_softmax", positive_in_softmax) and not refined
    weight = validation.number("negative_weight", negative_weight)
    if refined and probability is None:
        raise ValueError(
            '`candidate_sampling_probability` must be given where `correction` is "refined". '
            "Received: None."
        )
    if in_softmax and weight != 1:
        raise ValueError(
            "`negative_weight` must be 1 where the positive is in the softmax. "
            f"Received: {negative_weight!r}."
        )
    return RowOptions(positive_in_softmax=in_softmax, negative_weight=weight, correction=correction)
