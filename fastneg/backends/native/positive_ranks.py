"""The native `positive_ranks`."""

import tensorflow as tf

from fastneg.arguments.in_batch_softmax import PositiveRanksArguments
from fastneg.backends.native import xla
from fastneg.backends.native.custom_call import Description, Result, by_row, custom_call, ranked
from fastneg.backends.native.library import operations
from fastneg.backends.native.sizes import rows, static

_OPTIONAL = {
    "num_positives": "positives",
    "num_candidate_ids": "candidate_ids",
    "num_candidate_masks": "candidate_mask",
    "num_score_masks": "score_mask",
}


tf.no_gradient("Fastneg>PositiveRanks")


def positive_ranks(arguments: PositiveRanksArguments) -> tf.Tensor:
    """Calls the operation."""
    query, candidate = arguments.query_embeddings, arguments.candidate_embeddings
    optional = [getattr(arguments, name) for name in _OPTIONAL.values()]
    if not xla.is_the_way("positive_ranks"):
        lists = [[] if tensor is None else [tensor] for tensor in optional]
        ranks = operations().fastneg_positive_ranks(
            query, candidate, *lists, normalize=arguments.normalize
        )
        ranks.set_shape(static(rows(query)))
        return ranks
    query, candidate = (ranked(tf.stop_gradient(matrix), 2) for matrix in (query, candidate))
    optional = [
        None if tensor is None else ranked(tensor, 2 if tensor is arguments.score_mask else 1)
        for tensor in optional
    ]
    for place, name in enumerate(_OPTIONAL.values()):
        if name in ("positives", "score_mask") and optional[place] is not None:
            optional[place] = by_row(name, optional[place], tf.shape(query)[0])
    present = {
        name: int(tensor is not None) for name, tensor in zip(_OPTIONAL, optional, strict=True)
    }
    (ranks,) = custom_call(
        Description("Fastneg>PositiveRanks", {"normalize": arguments.normalize, **present}, {}),
        [query, candidate, *(tensor for tensor in optional if tensor is not None)],
        [Result(tf.int32, rows(query))],
        xla.platforms("positive_ranks"),
    )
    return ranks
