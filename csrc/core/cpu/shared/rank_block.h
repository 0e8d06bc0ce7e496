// The ranks of a block of queries' positives.
#ifndef FASTNEG_CORE_CPU_SHARED_RANK_BLOCK_H_
#define FASTNEG_CORE_CPU_SHARED_RANK_BLOCK_H_

#include "core/cpu/shared/in_batch_block.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

template <typename T>
void RankBlock(void* context, int64_t index) {
  const FlushDenormals flush;
  const InBatchPlan& plan = *static_cast<const InBatchPlan*>(context);
  constexpr int64_t kWidth = kWidthOfPanel<T>;
  using Int = typename Simd<T>::Int;
  InBatchBlock<T> block(plan, index);
  LoadInputs(plan, &block);
  LoadPositives(plan, &block);
  block.ResetExclusions(plan);
  Int counts[kMaxBlockRows * kLanes<T>] = {};
  Int lanes[kLanes<T>];
  for (int l = 0; l < kLanes<T>; ++l) lanes[l] = l;
  Mask<T> lane;
  __builtin_memcpy(&lane, lanes, sizeof(lane));
  for (int64_t panel = 0; panel < plan.num_panels; ++panel) {
    ScorePanel(plan, &block, panel);
    const int64_t vecs = VecsOfPanel<T>(plan.num_candidates, panel);
    const T* scores = block.Panel(panel);
    const T* offsets = static_cast<const T*>(plan.offsets) + panel * kWidth;
    for (int64_t r = 0; r < block.count; ++r) {
      const Vec<T> own = Broadcast(block.own[r]);
      Mask<T> count;
      __builtin_memcpy(&count, counts + r * kLanes<T>, sizeof(count));
      const auto ahead = static_cast<Int>(block.positive[r] - panel * kWidth);  // Of the panel's first candidate.
      const T positive = block.own[r];
      const bool plain = positive - positive == T(0) && plan.panel_is_finite[panel] != 0;
      if (plain && ahead >= kWidth) {
        ForPanelVecs(vecs, [&](int64_t v) FASTNEG_LAMBDA_INLINE {
          count -= ~(Load(scores + r * kWidth + v * kLanes<T>) < own);  // True is -1.
        });
      } else if (plain && ahead < 0) {
        ForPanelVecs(vecs, [&](int64_t v)
                               FASTNEG_LAMBDA_INLINE { count -= ~(Load(scores + r * kWidth + v * kLanes<T>) <= own); });
      } else {
        ForPanelVecs(vecs, [&](int64_t v) FASTNEG_LAMBDA_INLINE {
          const Vec<T> score = Load(scores + r * kWidth + v * kLanes<T>);
          const Mask<T> behind = lane > static_cast<Int>(ahead - v * kLanes<T>);
          const Mask<T> beaten = (score < own) | ((score == own) & behind);
          const Mask<T> none = (score == kMinusInfinity<T>) | (Load(offsets + v * kLanes<T>) == kMinusInfinity<T>);
          count -= ~(beaten | none);
        });
      }
      __builtin_memcpy(counts + r * kLanes<T>, &count, sizeof(count));
    }
  }
  for (int64_t r = 0; r < block.count; ++r) {
    int64_t rank = 0;
    for (int l = 0; l < kLanes<T>; ++l) rank += counts[r * kLanes<T> + l];
    plan.ranks[block.first + r] = static_cast<int32_t>(rank);
  }
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SHARED_RANK_BLOCK_H_
