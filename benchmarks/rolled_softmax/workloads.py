"""Named workloads: the sizes that the benchmarks run, and their inputs.

Every workload is float32 (or a half type widened from it) with 80% positive labels, gamma 20,
margin 0.1 and t 1.2, which is a usual setting for a two-tower retrieval model.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import suite

GAMMA = 20.0
MARGIN = 0.1
T = 1.2
POSITIVE_SHARE = 0.8


@dataclasses.dataclass(frozen=True)
class Workload(suite.Workload):
    """One size of the rolled SV-softmax loss: rows B, shifts K, width D."""

    batch_size: int
    num_negatives: int
    embedding_dim: int

    @property
    def memory_budget_bytes(self) -> int:
        """Room for both gradients, prepared rows and one number per pair, and a fifth more."""
        b, k, d = self.batch_size, self.num_negatives, self.embedding_dim
        return int(1.2 * 4 * (4 * b * d + (k + 1) * b))

    @property
    def small(self) -> Workload:
        """The same kind of work in a size to warm up on."""
        return dataclasses.replace(self, batch_size=600, num_negatives=4)

    @property
    def is_large(self) -> bool:
        """Whether two threads have to pay."""
        return self.stacked_bytes >= 100 << 20

    @property
    def stacked_bytes(self) -> int:
        """Bytes of the [B, K + 1, D] tensor that the plain compositions build."""
        return 4 * self.batch_size * (self.num_negatives + 1) * self.embedding_dim


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The arrays of one workload. `user_emb` and `item_emb` hold values exact in its dtype."""

    user_emb: np.ndarray  # [B, D] float32
    item_emb: np.ndarray  # [B, D] float32
    labels: np.ndarray  # [B] float32, 1 or 0
    shifts: np.ndarray  # [K] int32 in 1 .. B - 1


TABLE = (
    Workload(512, 4, 64),
    Workload(4096, 4, 64),
    Workload(4096, 20, 64),
    Workload(4096, 64, 128),
    Workload(8192, 256, 64),
    Workload(16384, 1024, 128),
)
WIDTHS = tuple(Workload(4096, 64, width, compares_all=False) for width in (50, 100, 300))
HALVES = tuple(
    Workload(4096, 64, 128, dtype=dtype, compares_all=False) for dtype in ("bfloat16", "float16")
)
QUICK = (
    Workload(256, 4, 32),
    Workload(300, 17, 50, compares_all=False),
    Workload(256, 4, 32, dtype="bfloat16", compares_all=False),
)


def make_inputs(workload: Workload, seed: int = 0) -> Inputs:
    """Draws the inputs: trained-looking pairs (an item resembles its user) and uniform shifts."""
    rng = np.random.default_rng(seed)
    shape = (workload.batch_size, workload.embedding_dim)
    user_emb = rng.standard_normal(shape, dtype=np.float32)
    item_emb = 0.5 * user_emb + rng.standard_normal(shape, dtype=np.float32)
    return Inputs(
        user_emb=_round_to(user_emb, workload.dtype),
        item_emb=_round_to(item_emb, workload.dtype),
        labels=(rng.random(workload.batch_size) < POSITIVE_SHARE).astype(np.float32),
        shifts=rng.integers(1, workload.batch_size, workload.num_negatives, dtype=np.int32),
    )


def _round_to(values: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "bfloat16":
        bits = values.view(np.uint32)
        rounded = bits + 0x7FFF + ((bits >> 16) & 1)
        return (rounded & np.uint32(0xFFFF0000)).view(np.float32)
    return values.astype(dtype).astype(np.float32)
