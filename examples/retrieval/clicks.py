"""Clicks of an invented audience, so that the example runs without a download."""

from __future__ import annotations

import numpy as np

from .interactions import HELD_OUT_FRACTION, Interactions

_TASTE_DIM = 8
_TASTE_STRENGTH = 6.0
_POPULARITY_EXPONENT = 0.8
_USERS_PER_BLOCK = 1024


def generate_clicks(
    num_users: int = 4000, num_items: int = 4000, clicks_per_user: int = 30, seed: int = 0
) -> Interactions:
    """Draws clicks from a latent-factor model with skewed popularity.

    A user clicks `clicks_per_user` different items, drawn without replacement with
    P(item | user) ~ popularity(item) exp(strength cos(taste_user, taste_item)), where the item of
    rank r has popularity r^-exponent. A fifth of each user's clicks, at random, is held out.
    """
    rng = np.random.default_rng(seed)
    user_taste = _unit_rows(rng.standard_normal((num_users, _TASTE_DIM), np.float32))
    item_taste = _unit_rows(rng.standard_normal((num_items, _TASTE_DIM), np.float32))
    log_popularity = -_POPULARITY_EXPONENT * np.log(rng.permutation(num_items) + 1.0)

    clicked = np.empty((num_users, clicks_per_user), np.int32)
    for start in range(0, num_users, _USERS_PER_BLOCK):
        taste = user_taste[start : start + _USERS_PER_BLOCK]
        log_weight = _TASTE_STRENGTH * taste @ item_taste.T + log_popularity.astype(np.float32)
        # The largest keys log_weight + Gumbel noise are a draw without replacement.
        exponential = rng.standard_exponential(log_weight.shape, np.float32)
        key = log_weight - np.log(np.maximum(exponential, np.finfo(np.float32).tiny))
        top = np.argpartition(key, -clicks_per_user, axis=1)[:, -clicks_per_user:]
        clicked[start : start + len(taste)] = rng.permuted(top, axis=1)

    num_held_out = max(1, int(HELD_OUT_FRACTION * clicks_per_user))
    users = np.repeat(np.arange(num_users, dtype=np.int32), clicks_per_user)
    held_out = np.tile(np.arange(clicks_per_user) < num_held_out, num_users)
    items = clicked.reshape(-1)
    return Interactions(
        name="generated clicks",
        num_users=num_users,
        num_items=num_items,
        users=users[~held_out],
        items=items[~held_out],
        labels=np.ones(np.count_nonzero(~held_out), np.float32),
        held_out_users=users[held_out],
        held_out_items=items[held_out],
    )


def _unit_rows(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
