// What a block's exponentials are relative to, and which of its scores stay: those of the hardest negatives.
#ifndef FASTNEG_CORE_CPU_SHARED_IN_BATCH_REFERENCES_H_
#define FASTNEG_CORE_CPU_SHARED_IN_BATCH_REFERENCES_H_

#include "core/cpu/shared/in_batch_block.h"
#include "core/cpu/shared/select_largest.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

// Raises `lanes`, a vector for each row, to the logits of one panel.
template <typename T>
FASTNEG_NOINLINE void RaiseMaxima(const InBatchPlan& plan, const InBatchBlock<T>& block, int64_t panel, T* lanes) {
  constexpr int64_t kWidth = kWidthOfPanel<T>;
  const int64_t vecs = VecsOfPanel<T>(plan.num_candidates, panel);
  const Reweighting<T> reweighting(plan);
  const T* offsets = static_cast<const T*>(plan.offsets) + panel * kWidth;
  const T* scores = block.Panel(panel);
  for (int64_t r = 0; r < block.count; ++r) {
    Vec<T> maximum = Load(lanes + r * kLanes<T>);
    const Vec<T> own = Broadcast(block.own[r]);
    ForPanelVecs(vecs, [&](int64_t v) FASTNEG_LAMBDA_INLINE {
      Vec<T> logit = Load(scores + r * kWidth + v * kLanes<T>);
      if (!plan.offsets_in_scores) {
        logit = reweighting.Apply(reweighting.IsHard(own, logit), logit) + Load(offsets + v * kLanes<T>);
      }
      maximum = Max<T>(logit, maximum);
    });
    Store(lanes + r * kLanes<T>, maximum);
  }
}

// References from the largest of the negatives' logits, and the positive's where it is in the softmax.
template <typename T>
FASTNEG_NOINLINE void SetReferences(const InBatchPlan& plan, const T* lanes, InBatchBlock<T>* block) {
  for (int64_t r = 0; r < block->count; r += kLanes<T>) {
    Vec<T> maximum = LargestLanes<T>(lanes + r * kLanes<T>);
    if (plan.positive_in_softmax) maximum = Max<T>(Load(block->own_logit + r), maximum);
    // A row without negatives needs none.
    maximum = maximum == kMinusInfinity<T> ? Zero<T>() : maximum;
    Store(block->reference + r, maximum);
  }
}

// Leaves the largest of each row's negatives among its scores, and -inf in the place of the others.
template <typename T>
FASTNEG_NOINLINE void KeepHardest(const InBatchPlan& plan, const InBatchBlock<T>& block) {
  constexpr int64_t kWidth = kWidthOfPanel<T>;
  const int64_t padded = plan.num_panels * kWidth;
  const int64_t selected = plan.num_hard_negatives;
  if (selected >= plan.num_candidates) return;
  const Reweighting<T> reweighting(plan);
  const T* offsets = static_cast<const T*>(plan.offsets);
  T* logits = static_cast<T*>(plan.block_logits) + block.slot * padded;
  T* listed = static_cast<T*>(plan.block_listed) + block.slot * padded;
  typename Simd<T>::Int lanes[kLanes<T>];
  for (int l = 0; l < kLanes<T>; ++l) lanes[l] = l;
  Mask<T> lane;
  __builtin_memcpy(&lane, lanes, sizeof(lane));
  for (int64_t r = 0; r < block.count; ++r) {
    const Vec<T> own = Broadcast(block.own[r]);
    for (int64_t panel = 0; panel < plan.num_panels; ++panel) {
      const int64_t vecs = VecsOfPanel<T>(plan.num_candidates, panel);
      for (int64_t v = 0; v < vecs; ++v) {
        const int64_t place = panel * kWidth + v * kLanes<T>;
        Vec<T> logit = Load(block.Panel(panel) + r * kWidth + v * kLanes<T>);
        if (!plan.offsets_in_scores) {
          logit = reweighting.Apply(reweighting.IsHard(own, logit), logit) + Load(offsets + place);
        }
        Store(logits + place, logit);
      }
    }
    const Cut<T> cut = SelectLargest<T>(logits, plan.num_candidates, selected, listed);
    for (int64_t panel = 0; panel < plan.num_panels; ++panel) {
      const int64_t vecs = VecsOfPanel<T>(plan.num_candidates, panel);
      for (int64_t v = 0; v < vecs; ++v) {
        const int64_t place = panel * kWidth + v * kLanes<T>;
        const Vec<T> logit = Load(logits + place);
        const auto before = static_cast<typename Simd<T>::Int>(cut.last - place < -1 ? -1 : cut.last - place);
        const Mask<T> equal = (logit == cut.value) & (lane <= before);
        const Mask<T> kept = (logit > cut.value) | equal | (logit != logit);
        T* score = block.Panel(panel) + r * kWidth + v * kLanes<T>;
        Store(score, kept ? Load(score) : kMinusInfinity<T>);
      }
    }
  }
}

// Scores the first `num_referred` panels, leaves the hardest negatives where the plan selects, and takes the references
// from what is there.
template <typename Block>
FASTNEG_NOINLINE void FindReferences(const InBatchPlan& plan, Block* block, int64_t num_referred) {
  using T = typename Block::Compute;
  const bool selects = plan.num_hard_negatives > 0;
  T lanes[kMaxBlockRows * kLanes<T>];
  for (int64_t r = 0; r < kMaxBlockRows; ++r) Store(lanes + r * kLanes<T>, kMinusInfinity<T>);
  block->ResetExclusions(plan);
  for (int64_t panel = 0; panel < num_referred; ++panel) {
    ScoreInBatch(plan, block, panel);
    if (!selects) RaiseMaxima(plan, *block, panel, lanes);
  }
  if (selects) {
    KeepHardest(plan, *block);
    for (int64_t panel = 0; panel < num_referred; ++panel) RaiseMaxima(plan, *block, panel, lanes);
  }
  SetReferences(plan, lanes, block);
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SHARED_IN_BATCH_REFERENCES_H_
