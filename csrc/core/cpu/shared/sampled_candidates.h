// First pass of sampled_softmax_loss: the sampled rows of the table, and what their logits have besides scores.
#ifndef FASTNEG_CORE_CPU_SHARED_SAMPLED_CANDIDATES_H_
#define FASTNEG_CORE_CPU_SHARED_SAMPLED_CANDIDATES_H_

#include "core/cpu/runtime/flush_denormals.h"
#include "core/cpu/shared/pack_rows.h"
#include "core/cpu/shared/sampled_plan.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

// log of expected counts: -inf for 0, NaN for what no count can be.
template <typename T>
FASTNEG_INLINE Vec<T> LogOfCount(Vec<T> count) {
  const Vec<T> infinity = Broadcast<T>(T(__builtin_huge_val()));
  const Vec<T> positive = Log<T>(count);
  const Vec<T> other = count == T(0) ? -infinity : infinity - infinity;
  return count > T(0) ? positive : other;
}

template <typename T>
void PackSampled(void* context, int64_t panel) {
  const FlushDenormals flush;
  const SampledPlan& plan = *static_cast<const SampledPlan*>(context);
  constexpr int64_t kWidth = kWidthOfPanel<T>;
  const int64_t first = panel * kWidth;
  PanelSource<T> source = {plan.table, plan.table_stride, {}};
  T counts[kWidth], biases[kWidth];
  for (int64_t s = 0; s < kWidth; ++s) {
    const bool is_candidate = first + s < plan.num_candidates;
    source.row[s] = is_candidate ? plan.sampled_rows[first + s] : -1;
    counts[s] = is_candidate ? static_cast<const T*>(plan.sampled_expected_count)[first + s] : T(1);
    biases[s] = is_candidate ? T(0) : -T(__builtin_huge_val());
    if (is_candidate && plan.biases != nullptr) biases[s] = static_cast<const T*>(plan.biases)[source.row[s]];
  }
  T* offsets = static_cast<T*>(plan.offsets) + first;
  for (int64_t s = 0; s < kWidth; s += kLanes<T>) {
    Store(offsets + s, Load(biases + s) - LogOfCount<T>(Load(counts + s)));
  }
  PackRows<T>(plan, panel, source);
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SHARED_SAMPLED_CANDIDATES_H_
