// A block of rows against all candidates: from inputs to exponentials, their sums, and the raw input gradients, panel
// by panel while it is in the first-level cache.
#ifndef FASTNEG_CORE_CPU_SHARED_SWEEP_H_
#define FASTNEG_CORE_CPU_SHARED_SWEEP_H_

#include "core/cpu/shared/row_products.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

template <typename T>
FASTNEG_INLINE void ClearLanes(int64_t count, T* lanes) {
  for (int64_t r = 0; r < count; ++r) Store(lanes + r * kLanes<T>, Zero<T>());
}

template <typename T>
FASTNEG_NOINLINE void AddLanes(int64_t count, const T* lanes, T* sums) {
  for (int64_t r = 0; r < count; r += kLanes<T>) Store(sums + r, SumsOfLanes<T>(lanes + r * kLanes<T>));
}

// Raises `lanes`, a vector for each row, to the scores of one panel.
template <typename T>
FASTNEG_NOINLINE void RaiseMaxima(const SharedPlan& plan, const RowBlock<T>& block, int64_t panel, T* lanes) {
  constexpr int64_t kWidth = kWidthOfPanel<T>;
  const int64_t vecs = VecsOfPanel<T>(plan.num_candidates, panel);
  const T* scores = block.Panel(panel);
  for (int64_t r = 0; r < block.count; ++r) {
    Vec<T> maximum = Load(lanes + r * kLanes<T>);
    ForPanelVecs(vecs, [&](int64_t v) FASTNEG_LAMBDA_INLINE {
      maximum = Max<T>(Load(scores + r * kWidth + v * kLanes<T>), maximum);
    });
    Store(lanes + r * kLanes<T>, maximum);
  }
}

// References from the largest of the negatives' logits, with what the loss makes of it: block->ReferenceOf().
template <typename Plan, typename Block, typename T = typename Block::Compute>
FASTNEG_NOINLINE void SetReferences(const Plan& plan, const T* lanes, Block* block) {
  for (int64_t r = 0; r < block->count; r += kLanes<T>) {
    Store(block->reference + r, block->ReferenceOf(plan, r, LargestLanes<T>(lanes + r * kLanes<T>)));
  }
}

// Scores the first `num_referred` panels, leaves what the plan selects, and takes the references from what is there.
template <typename Plan, typename Block>
FASTNEG_NOINLINE void FindReferences(const Plan& plan, Block* block, int64_t num_referred) {
  using T = typename Block::Compute;
  T lanes[kMaxBlockRows * kLanes<T>];
  for (int64_t r = 0; r < kMaxBlockRows; ++r) Store(lanes + r * kLanes<T>, kMinusInfinity<T>);
  block->ResetExclusions(plan);
  const bool selects = block->Selects(plan);
  for (int64_t panel = 0; panel < num_referred; ++panel) {
    ScorePanel(plan, block, panel);
    if (!selects) RaiseMaxima(plan, *block, panel, lanes);
  }
  if (selects) {
    block->KeepSelected(plan);
    for (int64_t panel = 0; panel < num_referred; ++panel) RaiseMaxima(plan, *block, panel, lanes);
  }
  SetReferences(plan, lanes, block);
}

// One panel's scores to exponentials relative to the rows' references, added to `lanes`, a vector for each row. Scores
// so large that they would overflow are cut where the sum tells of it.
template <typename T>
FASTNEG_NOINLINE void ExponentiateScores(const SharedPlan& plan, const RowBlock<T>& block, int64_t panel, T* lanes) {
  constexpr int64_t kWidth = kWidthOfPanel<T>;
  const int64_t vecs = VecsOfPanel<T>(plan.num_candidates, panel);
  const Vec<T> highest = Broadcast<T>(MathConstants<T>::kExpHighest);
  T* values = block.Panel(panel);
  for (int64_t r = 0; r < block.count; ++r) {
    const Vec<T> reference = Broadcast(block.reference[r]);
    Vec<T> sum = Load(lanes + r * kLanes<T>);
    ForPanelVecs(vecs, [&](int64_t v) FASTNEG_LAMBDA_INLINE {
      T* value = values + r * kWidth + v * kLanes<T>;
      const Vec<T> e = Exp<T>(Min<T>(highest, Load(value) - reference));
      sum += e;
      Store(value, e);
    });
    Store(lanes + r * kLanes<T>, sum);
  }
}

// `exponentiate(panel)` makes exponentials of a panel's scores. References come from the first `num_referred` panels.
template <typename Plan, typename Block, typename F>
FASTNEG_INLINE void SweepPanels(const Plan& plan, Block* block, int64_t num_referred, F exponentiate) {
  FindReferences(plan, block, num_referred);
  const bool scores_again = !plan.keeps_panels && num_referred > 1;
  if (scores_again) block->ResetExclusions(plan);
  for (int64_t panel = 0; panel < plan.num_panels; ++panel) {
    if (panel >= num_referred || scores_again) ScorePanel(plan, block, panel);
    exponentiate(panel);
    if (plan.grad_inputs != nullptr && !plan.transforms) AddInputGrads(plan, *block, panel);
  }
}

// Whether the references suited, given the sums of exponentials: none is so large that a product with it overflows,
// and where the positive is not among the terms the largest one is. False also for NaN.
template <typename T>
FASTNEG_INLINE bool ReferencesSuit(const RowBlock<T>& block, const T* sums, bool positive_in_softmax) {
  constexpr T kLargest = T(1 << 30);
  bool suit = true;
  for (int64_t r = 0; r < block.count; ++r) {
    suit &= sums[r] <= kLargest && (positive_in_softmax || sums[r] >= T(0.5));
  }
  return suit;
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SHARED_SWEEP_H_
