"""Items numbered from the most to the least popular, as the log-uniform sampler wants them."""

from __future__ import annotations

import dataclasses

import numpy as np

from .interactions import Interactions


def clicks_by_popularity(data: Interactions) -> Interactions:
    """Keeps the clicks and numbers the items by how often the training clicks show them.

    Item 0 becomes the one with the most training clicks; items with equally many keep their order.
    """
    is_click = data.labels > 0
    items = data.items[is_click]
    by_rank = np.argsort(-np.bincount(items, minlength=data.num_items), kind="stable")
    rank = np.empty(data.num_items, np.int32)
    rank[by_rank] = np.arange(data.num_items, dtype=np.int32)
    return dataclasses.replace(
        data,
        users=data.users[is_click],
        items=rank[items],
        labels=data.labels[is_click],
        held_out_items=rank[data.held_out_items],
    )
