// Third pass of the shuffled candidates: every item row gathers the user rows that had it as a candidate, one for each
// permutation. No two tasks write the same row, so the result does not depend on who runs what.
//
// The pass is bound by reading user rows in random order. Every one of them has a place of its own, so a table of
// places as the rolled candidates use it (gather_rolled_grads.h) would be filled and read once: to follow the inverse
// permutations directly takes half of that time.
#ifndef FASTNEG_CORE_CPU_GATHERED_GATHER_SHUFFLED_GRADS_H_
#define FASTNEG_CORE_CPU_GATHERED_GATHER_SHUFFLED_GRADS_H_

#include "core/cpu/gathered/plan.h"
#include "core/cpu/gathered/prepare_rows.h"
#include "core/cpu/gathered/rows.h"
#include "core/cpu/runtime/flush_denormals.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

// kChunks vectors at element d of item row j's gradient, into `out`.
template <typename T, int kChunks, bool kWhole>
FASTNEG_INLINE void GatherShuffledChunks(const GatheredPlan& plan, int64_t j, int64_t d, const NormaliseSum<T>& last,
                                         T* out) {
  const int64_t stride = plan.row_stride;
  const T* users = static_cast<const T*>(plan.user) + d;
  // The positive: the row's own user.
  const Vec<T> positive_weight = Broadcast(static_cast<const T*>(plan.positive_weights)[j]);
  Vec<T> sums[kChunks];
#pragma GCC unroll 8
  for (int c = 0; c < kChunks; ++c) sums[c] = positive_weight * LoadAligned(users + j * stride + c * kLanes<T>);
  const T* weights = static_cast<const T*>(plan.exp_weights);
  const int32_t* inverse = plan.inverses + j;
  for (int64_t k = 0; k < plan.num_candidates; ++k) {
    const int64_t i = *inverse;
    const Vec<T> weight = Broadcast(weights[i]);
    const T* user = users + i * stride;
#pragma GCC unroll 8
    for (int c = 0; c < kChunks; ++c) sums[c] += weight * LoadAligned(user + c * kLanes<T>);
    inverse += plan.permutation_stride;
    weights += plan.exp_stride;
  }
  last.template Finish<kChunks>(0, sums);
  StoreChunks<T, kChunks, kWhole>(sums, plan.embedding_dim - d, out + d);
}

template <typename T>
FASTNEG_INLINE void GatherShuffledRow(const GatheredPlan& plan, int64_t j, const NormaliseSum<T>& last, T* out) {
  constexpr int64_t kL = kLanes<T>;
  const int64_t dim = plan.embedding_dim;
  int64_t d = 0;
  for (; dim - d >= 8 * kL; d += 8 * kL) GatherShuffledChunks<T, 8, true>(plan, j, d, last, out);
  if (dim - d >= 4 * kL) {
    GatherShuffledChunks<T, 4, true>(plan, j, d, last, out);
    d += 4 * kL;
  }
  if (dim - d > 2 * kL) {
    GatherShuffledChunks<T, 4, false>(plan, j, d, last, out);
  } else if (dim - d == 2 * kL) {
    GatherShuffledChunks<T, 2, true>(plan, j, d, last, out);
  } else if (dim - d > kL) {
    GatherShuffledChunks<T, 2, false>(plan, j, d, last, out);
  } else if (dim > d) {
    GatherShuffledChunks<T, 1, false>(plan, j, d, last, out);
  }
}

template <typename T>
void GatherShuffledGrads(void* context, int64_t tile) {
  const FlushDenormals flush;
  const GatheredPlan& plan = *static_cast<const GatheredPlan*>(context);
  if (FirstInvalidPermutation(plan) < plan.num_candidates) return;
  const int64_t begin = tile * plan.tile_rows;
  const int64_t end = begin + plan.tile_rows < plan.batch_size ? begin + plan.tile_rows : plan.batch_size;
  const int64_t dim = plan.embedding_dim;
  const bool in_registers = SumsInRegisters<T>(dim);
  for (int64_t j = begin; j < end; ++j) {
    T* grad = static_cast<T*>(plan.grad_item) + j * dim;
    const T* item = static_cast<const T*>(plan.item) + j * plan.row_stride;
    const T* inverse = static_cast<const T*>(plan.item_inverse) + j;
    GatherShuffledRow<T>(plan, j, {plan.normalise && in_registers ? item : nullptr, inverse, 0}, grad);
    if (plan.normalise && !in_registers) ThroughNormalisation<T>(item, *inverse, dim, grad);
  }
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_GATHERED_GATHER_SHUFFLED_GRADS_H_
