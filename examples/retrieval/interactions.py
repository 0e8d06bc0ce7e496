"""Interactions of users with items: what the model trains on and what it is judged by."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CLICK_RATING = 4.0
HELD_OUT_FRACTION = 0.2
_RATING_COLUMNS = ("userid", "movieid", "rating", "timestamp")
_CSR_KEYS = ("train_indptr", "train_indices", "train_is_valid", "n_users", "n_items")


@dataclass(frozen=True)
class Interactions:
    """Training rows in the order they were read, and held-out clicks.

    Attributes:
        name: shown in reports.
        num_users, num_items: sizes of the embedding tables; ids are 0 .. size - 1.
        users, items: int32 [N], the training rows.
        labels: float32 [N], 1 for a click and 0 for a row whose item serves only as a negative.
        held_out_users, held_out_items: int32 [M], clicks that the model must find.
    """

    name: str
    num_users: int
    num_items: int
    users: np.ndarray
    items: np.ndarray
    labels: np.ndarray
    held_out_users: np.ndarray
    held_out_items: np.ndarray

    def __post_init__(self) -> None:
        """Refuses data that cannot be trained on or judged by."""
        if not len(self.users) or not len(self.held_out_users):
            raise ValueError(
                "The data must hold training rows and held-out clicks. "
                f"Received: {len(self.users)} rows and {len(self.held_out_users)} held-out clicks."
            )

    def item_share(self) -> np.ndarray:
        """Share of the training rows that show each item, float32 [num_items].

        It is proportional to how likely an item is to be drawn into a batch, which is all that
        `candidate_sampling_probability` needs: a constant factor cancels in the softmax.
        """
        count = np.bincount(self.items, minlength=self.num_items)
        return (count / len(self.items)).astype(np.float32)


def load(path: Path) -> Interactions:
    """Reads a MovieLens-style .csv or a CSR .npz.

    Raises:
        ValueError: the file is of another kind or lacks something.
        OSError: the file cannot be read.
    """
    readers = {".csv": read_ratings_csv, ".npz": read_csr_npz}
    if path.suffix.lower() not in readers:
        raise ValueError(f"Interactions must be a .csv or .npz file. Received: {path.name}")
    return readers[path.suffix.lower()](path)


def read_ratings_csv(path: Path) -> Interactions:
    """Reads `userid,movieid,rating,timestamp` rows (any order and case of these columns).

    Ratings of 4 and more are clicks, lower ones are rows with label 0. The latest fifth of each
    user's clicks is held out.
    """
    with path.open(newline="") as file:
        header = [column.strip().lower() for column in next(csv.reader(file), [])]
        missing = [column for column in _RATING_COLUMNS if column not in header]
        if missing:
            raise ValueError(
                f"{path.name} must have the columns {', '.join(_RATING_COLUMNS)}. "
                f"Received: {', '.join(header) or 'an empty file'}."
            )
        columns = [header.index(column) for column in _RATING_COLUMNS]
        try:
            table = np.loadtxt(file, delimiter=",", usecols=columns, ndmin=2, dtype=np.float64)
        except ValueError as error:
            raise ValueError(f"{path.name} must hold numbers only. Received: {error}.") from error
    user_names, users = np.unique(table[:, 0], return_inverse=True)
    item_names, items = np.unique(table[:, 1], return_inverse=True)
    is_click = table[:, 2] >= CLICK_RATING
    held_out = latest_clicks(users, is_click, table[:, 3], HELD_OUT_FRACTION)
    return Interactions(
        name=path.parent.name or path.stem,
        num_users=len(user_names),
        num_items=len(item_names),
        users=users[~held_out].astype(np.int32),
        items=items[~held_out].astype(np.int32),
        labels=is_click[~held_out].astype(np.float32),
        held_out_users=users[held_out].astype(np.int32),
        held_out_items=items[held_out].astype(np.int32),
    )


def latest_clicks(
    users: np.ndarray, is_click: np.ndarray, timestamps: np.ndarray, fraction: float
) -> np.ndarray:
    """Marks the latest `fraction` of each user's clicks, rounded down, as a bool array."""
    rows = np.flatnonzero(is_click)
    rows = rows[np.lexsort((rows, timestamps[rows], users[rows]))]
    clicks_per_user = np.bincount(users[rows])
    end = np.cumsum(clicks_per_user)
    from_the_end = end[users[rows]] - 1 - np.arange(len(rows))
    held_out = np.zeros(len(users), bool)
    held_out[rows] = from_the_end < np.floor(fraction * clicks_per_user)[users[rows]]
    return held_out


def read_csr_npz(path: Path) -> Interactions:
    """Reads one list of item ids per user (CSR); entries marked `train_is_valid` are held out."""
    with np.load(path) as arrays:
        missing = [key for key in _CSR_KEYS if key not in arrays]
        if missing:
            raise ValueError(
                f"{path.name} must hold the arrays {', '.join(_CSR_KEYS)}. "
                f"Received: {', '.join(arrays.files)}."
            )
        indptr, items, held_out, num_users, num_items = (arrays[key] for key in _CSR_KEYS)
    num_users, num_items = int(num_users), int(num_items)
    _check_csr(path.name, indptr, items, held_out, num_users, num_items)
    users = np.repeat(np.arange(num_users, dtype=np.int32), np.diff(indptr))
    items, held_out = items.astype(np.int32), held_out.astype(bool)
    return Interactions(
        name=path.stem,
        num_users=num_users,
        num_items=num_items,
        users=users[~held_out],
        items=items[~held_out],
        labels=np.ones(np.count_nonzero(~held_out), np.float32),
        held_out_users=users[held_out],
        held_out_items=items[held_out],
    )


def _check_csr(
    name: str,
    indptr: np.ndarray,
    items: np.ndarray,
    held_out: np.ndarray,
    num_users: int,
    num_items: int,
) -> None:
    """Refuses arrays that do not describe one list of items per user."""
    if indptr.shape != (num_users + 1,) or np.any(np.diff(indptr) < 0) or indptr[0] != 0:
        raise ValueError(
            f"train_indptr of {name} must rise from 0 over n_users + 1 = {num_users + 1} entries. "
            f"Received: shape {indptr.shape}."
        )
    if items.shape != (indptr[-1],) or held_out.shape != items.shape:
        raise ValueError(
            f"train_indices and train_is_valid of {name} must have train_indptr[-1] = {indptr[-1]} "
            f"entries. Received: shapes {items.shape} and {held_out.shape}."
        )
    if items.size and not 0 <= items.min() <= items.max() < num_items:
        raise ValueError(
            f"train_indices of {name} must lie in 0 .. n_items - 1 = {num_items - 1}. "
            f"Received: {items.min()} .. {items.max()}."
        )
