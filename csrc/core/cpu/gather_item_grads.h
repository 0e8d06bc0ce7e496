// Third pass of the gathered losses: every item row gathers the user rows that had it as a candidate. No two tasks
// write the same row, so the result does not depend on who runs what.
#ifndef FASTNEG_CORE_CPU_GATHER_ITEM_GRADS_H_
#define FASTNEG_CORE_CPU_GATHER_ITEM_GRADS_H_

#include "core/cpu/gathered_plan.h"
#include "core/cpu/gathered_rows.h"
#include "core/cpu/score_rows.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

// Candidates taken at a time: enough to make loading and storing the sum cheap, few enough for the windows of the
// shifts to stay in the second-level cache.
constexpr int64_t kItemGroup = 32;

template <typename T, typename Candidates>
void GatherItemGradTile(const GatheredPlan& plan, const Candidates& candidates, int64_t tile) {
  constexpr int kL = kLanes<T>;
  const int64_t begin = tile * plan.tile_rows;
  const int64_t end = begin + plan.tile_rows < plan.batch_size ? begin + plan.tile_rows : plan.batch_size;
  const int64_t dim = plan.embedding_dim;
  const T* user = static_cast<const T*>(plan.user);
  const T* exp_weights = static_cast<const T*>(plan.exp_weights);
  T* grad_item = static_cast<T*>(plan.grad_item);
  for (int64_t first = 0; first < plan.num_candidates; first += kItemGroup) {
    const int64_t n = plan.num_candidates - first < kItemGroup ? plan.num_candidates - first : kItemGroup;
    for (int64_t j = begin; j < end; ++j) {
      const T* rows[kItemGroup + 1];
      T weights[kItemGroup + 1];
      for (int64_t k = 0; k < n; ++k) {
        const int64_t i = candidates.User(j, first + k);
        weights[k] = exp_weights[(first + k) * plan.exp_stride + i];
        rows[k] = user + i * plan.row_stride;
      }
      // The positive: its weight is e_0 - sum = -S.
      weights[n] = -static_cast<const T*>(plan.negative_sum)[j];
      rows[n] = user + j * plan.row_stride;
      WeightedRows<T>(weights, rows, first == 0 ? n + 1 : n, dim, first > 0, grad_item + j * dim);
    }
  }
  if (!plan.normalise) return;
  for (int64_t j = begin; j < end; ++j) {
    T* grad = grad_item + j * dim;
    const T* item = static_cast<const T*>(plan.item) + j * plan.row_stride;
    const T inverse = static_cast<const T*>(plan.item_inverse)[j];
    const T length = inverse < 0 ? -inverse : inverse;
    Vec<T> dot = Zero<T>();
    if (!(inverse < 0)) {
      for (int64_t d = 0; d < dim; d += kL) {
        const Vec<T> g = dim - d < kL ? LoadPartial(grad + d, dim - d) : Load(grad + d);
        dot += g * LoadAligned(item + d);
      }
    }
    const T along = Sum<T>(dot);
    for (int64_t d = 0; d < dim; d += kL) {
      const int64_t valid = dim - d < kL ? dim - d : kL;
      const Vec<T> g = valid == kL ? Load(grad + d) : LoadPartial(grad + d, valid);
      const Vec<T> result = length * (g - along * LoadAligned(item + d));
      valid == kL ? Store(grad + d, result) : StorePartial(grad + d, result, valid);
    }
  }
}

template <typename T>
void GatherRolledItemGrads(void* context, int64_t tile) {
  const GatheredPlan& plan = *static_cast<const GatheredPlan*>(context);
  GatherItemGradTile<T>(plan, RolledCandidates{plan.shifts, plan.batch_size}, tile);
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_GATHER_ITEM_GRADS_H_
