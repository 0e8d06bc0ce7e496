// The logits that a block's exponentials are relative to, and which scores stay: those of the hardest negatives.
#ifndef FASTNEG_CORE_CPU_SHARED_IN_BATCH_REFERENCES_H_
#define FASTNEG_CORE_CPU_SHARED_IN_BATCH_REFERENCES_H_

#include "core/cpu/shared/in_batch_block.h"
#include "core/cpu/shared/select_largest.h"
#include "core/cpu/shared/sweep.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

// As RaiseMaxima of sweep.h, to logits where they are more than the scores.
template <typename T>
FASTNEG_NOINLINE void RaiseMaxima(const InBatchPlan& plan, const InBatchBlock<T>& block, int64_t panel, T* lanes) {
  if (plan.offsets_in_scores) return RaiseMaxima<T>(static_cast<const SharedPlan&>(plan), block, panel, lanes);
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
      logit = reweighting.Apply(reweighting.IsHard(own, logit), logit) + Load(offsets + v * kLanes<T>);
      maximum = Max<T>(logit, maximum);
    });
    Store(lanes + r * kLanes<T>, maximum);
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

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SHARED_IN_BATCH_REFERENCES_H_
