// First and last pass of the in-batch loss: candidates in the two layouts that the matrix products take, and what their
// gradients are once those of the prepared rows are complete.
#ifndef FASTNEG_CORE_CPU_SHARED_IN_BATCH_CANDIDATES_H_
#define FASTNEG_CORE_CPU_SHARED_IN_BATCH_CANDIDATES_H_

#include "core/cpu/gathered/prepare_rows.h"
#include "core/cpu/runtime/flush_denormals.h"
#include "core/cpu/shared/in_batch_plan.h"
#include "core/cpu/shared/pack_rows.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

// Whether anything can depend on candidate j's row.
FASTNEG_INLINE bool IsUsed(const InBatchPlan& plan, int64_t j) {
  if (plan.candidate_mask == nullptr || plan.candidate_mask[j] != 0) return true;
  return plan.is_positive == nullptr ? j < plan.batch_size : plan.is_positive[j] != 0;
}

// NaN stays.
template <typename T>
FASTNEG_INLINE Vec<T> ClippedProbability(Vec<T> q) {
  const Vec<T> lowest = Broadcast(T(kLowestProbability)), highest = Broadcast(T(1));
  q = q < lowest ? lowest : q;
  return q > highest ? highest : q;
}

template <typename T>
FASTNEG_INLINE void PackOffsets(const InBatchPlan& plan, int64_t first, int64_t count) {
  constexpr int64_t kWidth = kWidthOfPanel<T>;
  T* offsets = static_cast<T*>(plan.offsets) + first;
  for (int64_t s = 0; s < kWidth; s += kLanes<T>) {
    const int64_t valid = count - s < 0 ? 0 : count - s < kLanes<T> ? count - s : kLanes<T>;
    Vec<T> offset = Zero<T>();
    if (plan.probability != nullptr) {
      const Vec<T> q = LoadPartial(static_cast<const T*>(plan.probability) + first + s, valid);
      offset = -Log<T>(ClippedProbability<T>(q));
      Store(static_cast<T*>(plan.neg_log_q) + first + s, offset);
    }
    Store(offsets + s, offset);
  }
  for (int64_t s = 0; s < kWidth; ++s) {
    const bool kept = s < count && (plan.candidate_mask == nullptr || plan.candidate_mask[first + s] != 0);
    if (!kept) offsets[s] = -T(__builtin_huge_val());
  }
  if (plan.factors == nullptr) return;
  T* factors = static_cast<T*>(plan.factors) + first;
  for (int64_t s = 0; s < kWidth; s += kLanes<T>) Store(factors + s, Exp<T>(Load(offsets + s)));
}

// Without kColumns all but the panel.
template <typename T, bool kColumns = true>
void PackInBatch(void* context, int64_t panel) {
  const FlushDenormals flush;
  const InBatchPlan& plan = *static_cast<const InBatchPlan*>(context);
  constexpr int64_t kWidth = kWidthOfPanel<T>;
  const int64_t first = panel * kWidth;
  const int64_t count = plan.num_candidates - first < kWidth ? plan.num_candidates - first : kWidth;
  PackOffsets<T>(plan, first, count);
  PanelSource<T> source = {plan.candidates, plan.candidate_stride, {}};
  for (int64_t s = 0; s < kWidth; ++s) source.row[s] = s < count && IsUsed(plan, first + s) ? first + s : -1;
  PackRows<T, kColumns>(plan, panel, source);
}

// From the gradients of prepared rows to those of the candidates, of one panel.
template <typename T>
void FinishInBatchCandidates(void* context, int64_t panel) {
  const FlushDenormals flush;
  const InBatchPlan& plan = *static_cast<const InBatchPlan*>(context);
  constexpr int64_t kWidth = kWidthOfPanel<T>;
  const int64_t dim = plan.embedding_dim;
  const int64_t begin = panel * kWidth;
  const int64_t end = plan.num_candidates - begin < kWidth ? plan.num_candidates : begin + kWidth;
  for (int64_t j = begin; j < end; ++j) {
    T* grad = static_cast<T*>(plan.grad_rows) + j * plan.grad_stride;
    if (plan.normalize) {
      const T* row = static_cast<const T*>(plan.rows) + j * plan.row_stride;
      ThroughNormalisation<T>(row, static_cast<const T*>(plan.inverse)[j], dim, grad);
    }
    T* out = static_cast<T*>(plan.grad_candidates) + j * dim;
    ForChunks<T>(dim,
                 [&](int64_t d, int64_t valid) FASTNEG_LAMBDA_INLINE { StoreValid(out + d, Load(grad + d), valid); });
  }
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SHARED_IN_BATCH_CANDIDATES_H_
