// What the rows of a block add up over the negatives of the in-batch loss.
#ifndef FASTNEG_CORE_CPU_SHARED_IN_BATCH_SUMS_H_
#define FASTNEG_CORE_CPU_SHARED_IN_BATCH_SUMS_H_

#include "core/cpu/shared/panels.h"
#include "core/cpu/shared/plan.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

// Sums over a row's negatives, for each row of a block.
template <typename T>
struct RowSums {
  T exponentials[kMaxBlockRows];
  T members[kMaxBlockRows];  // Their number, and the sum of their logits; only where the plan counts.
  T logits[kMaxBlockRows];
  // Of hard ones, only where the plan re-weights: exponentials, exponentials times scores, and, where it also counts,
  // their number and their scores.
  T hard[kMaxBlockRows];
  T hard_scores[kMaxBlockRows];
  T hard_members[kMaxBlockRows];
  T plain_hard_scores[kMaxBlockRows];
};

// The same lane by lane.
template <typename T>
struct LaneSums {
  T exponentials[kMaxBlockRows * kLanes<T>];
  T members[kMaxBlockRows * kLanes<T>];
  T logits[kMaxBlockRows * kLanes<T>];
  T hard[kMaxBlockRows * kLanes<T>];
  T hard_scores[kMaxBlockRows * kLanes<T>];
  T hard_members[kMaxBlockRows * kLanes<T>];
  T plain_hard_scores[kMaxBlockRows * kLanes<T>];
};

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SHARED_IN_BATCH_SUMS_H_
