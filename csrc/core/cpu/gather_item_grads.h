// Third pass of the gathered losses: every item row gathers the user rows that had it as a candidate. No two tasks
// write the same row, so the result does not depend on who runs what.
#ifndef FASTNEG_CORE_CPU_GATHER_ITEM_GRADS_H_
#define FASTNEG_CORE_CPU_GATHER_ITEM_GRADS_H_

#include "core/cpu/flush_denormals.h"
#include "core/cpu/gathered_plan.h"
#include "core/cpu/gathered_rows.h"
#include "core/cpu/prepare_rows.h"
#include "core/cpu/rolled_candidates.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

// Candidates taken at a time: enough to make loading and storing the sum cheap, few enough for the windows of the
// shifts to stay in the second-level cache.
constexpr int64_t kItemGroup = 32;

template <typename T, typename Candidates>
void GatherItemGradTile(const GatheredPlan& plan, const Candidates& candidates, int64_t tile) {
  const int64_t begin = tile * plan.tile_rows;
  const int64_t end = begin + plan.tile_rows < plan.batch_size ? begin + plan.tile_rows : plan.batch_size;
  const int64_t dim = plan.embedding_dim;
  const T* user = static_cast<const T*>(plan.user);
  const T* exp_weights = static_cast<const T*>(plan.exp_weights);
  T* grad_item = static_cast<T*>(plan.grad_item);
  for (int64_t first = 0; first < plan.num_candidates; first += kItemGroup) {
    const int64_t n = plan.num_candidates - first < kItemGroup ? plan.num_candidates - first : kItemGroup;
    const typename Candidates::template Group<kItemGroup> group(candidates, first, n);
    for (int64_t j = begin; j < end; ++j) {
      // Aligned, because a vector store that crosses a line would not be forwarded to the loads of its elements.
      alignas(64) int64_t offsets[kItemGroup + 1];
      alignas(64) int64_t weight_offsets[kItemGroup];
      T weights[kItemGroup + 1];
      group.UserOffsets(j, offsets, weight_offsets);
      int64_t used = 0;
      if (plan.sparse) {
        for (int64_t k = 0; k < n; ++k) {
          const T weight = exp_weights[weight_offsets[k]];
          weights[used] = weight;
          offsets[used] = offsets[k];
          used += weight != 0;
        }
      } else {
        for (; used < n; ++used) weights[used] = exp_weights[weight_offsets[used]];
      }
      if (first == 0) {
        const T positive = -static_cast<const T*>(plan.negative_sum)[j];  // e_0 - sum
        weights[used] = positive;
        offsets[used++] = j * plan.row_stride;
      }
      WeightedRows<T>(weights, user, offsets, used, dim, first > 0, grad_item + j * dim);
    }
  }
  if (!plan.normalise) return;
  for (int64_t j = begin; j < end; ++j) {
    ThroughNormalisation<T>(static_cast<const T*>(plan.item) + j * plan.row_stride,
                            static_cast<const T*>(plan.item_inverse)[j], dim, grad_item + j * dim);
  }
}

template <typename T>
void GatherRolledItemGrads(void* context, int64_t tile) {
  const FlushDenormals flush;
  const GatheredPlan& plan = *static_cast<const GatheredPlan*>(context);
  GatherItemGradTile<T>(plan, RolledCandidates(plan), tile);
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_GATHER_ITEM_GRADS_H_
