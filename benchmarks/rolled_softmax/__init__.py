"""softmax_loss_with_negative_mining.

The model of its work, for P counted rows, K + 1 candidates and width D:

- 6 P (K + 1) D floating-point operations: a multiply-add per element for the score, for the user
  gradient and for the item gradient. Normalisation and softmax are not counted.
- 8 P (K + 1) D bytes read: for every row and candidate one item row (score and, while it is at
  hand, user gradient) and one user row (item gradient), 4 bytes an element. Shifts are random, so
  two rows almost never meet the same candidate at the same time, and no row is used twice from L1;
  blocks of rows and sorted shifts do let all of them come from L2.

The least time is the longer of operations / FMA peak and bytes / read bandwidth of L2.
"""

from measure import MachineLimits
from suite import Suite

from rolled_softmax import contenders, plots, truth, workloads


def _least_time_ms(
    limits: MachineLimits, workload: workloads.Workload, inputs: workloads.Inputs
) -> float:
    pairs = float((inputs.labels > 0).sum()) * (workload.num_negatives + 1)
    elements = pairs * workload.embedding_dim
    fma_ms = 6 * elements / (limits.fma_gflops * 1e6)
    read_ms = 8 * elements / (limits.read_gb_per_s["L2"] * 1e6)
    return max(fma_ms, read_ms)


SUITE = Suite(
    stem="rolled_softmax",
    title="softmax_loss_with_negative_mining: loss and both gradients",
    sizes="B,K,D",
    table=workloads.TABLE[:4] + workloads.HALVES + workloads.WIDTHS + workloads.TABLE[4:],
    quick=workloads.QUICK,
    make_inputs=workloads.make_inputs,
    make_tensors=contenders.as_tensors,
    fastneg_loss=contenders.fastneg_loss,
    num_differentiated=2,
    contenders=contenders.all_contenders(),
    compute_truth=truth.compute_truth,
    describe_error=truth.describe_error,
    least_time_ms=_least_time_ms,
    draw=plots.draw_cost,
)
