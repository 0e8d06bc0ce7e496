// Third pass of the rolled candidates: every item row gathers the user rows that had it as a candidate. No two tasks
// write the same row, so the result does not depend on who runs what.
#ifndef FASTNEG_CORE_CPU_GATHERED_GATHER_ROLLED_GRADS_H_
#define FASTNEG_CORE_CPU_GATHERED_GATHER_ROLLED_GRADS_H_

#include "core/cpu/gathered/plan.h"
#include "core/cpu/gathered/prepare_rows.h"
#include "core/cpu/gathered/rows.h"
#include "core/cpu/runtime/flush_denormals.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

// The user rows that have an item row as their rolled candidates first .. first + count - 1, of which at most kSize are
// looked at; places behind the last one repeat the first. Item row j is candidate k of user row (j + shifts[k]) mod B.
template <int kSize>
class RolledUsers {
 public:
  RolledUsers(const GatheredPlan& plan, int64_t first, int64_t count) : plan_(plan) {
    for (int k = 0; k < kSize; ++k) {
      const int64_t candidate = first + (k < count ? k : 0);
      shifts_[k] = plan.shifts[candidate];
      weight_rows_[k] = candidate * plan.exp_stride;
    }
  }

  // Fills `offsets` with the places of item row j's users, in elements from prepared user row j on, and
  // `weight_offsets` with those of the pairs' exponentials, from element j of exp_weights on; returns the first row
  // behind j for which they are no longer right.
  FASTNEG_NOINLINE int64_t Offsets(int64_t j, int64_t* offsets, int64_t* weight_offsets) const {
    int64_t until = plan_.batch_size;
    for (int k = 0; k < kSize; ++k) {
      const int64_t wrap_row = plan_.batch_size - shifts_[k];
      const bool wraps = j >= wrap_row;
      if (!wraps && wrap_row < until) until = wrap_row;
      const int64_t distance = wraps ? -wrap_row : shifts_[k];
      offsets[k] = distance * plan_.row_stride;
      weight_offsets[k] = weight_rows_[k] + distance;
    }
    return until;
  }

 private:
  const GatheredPlan& plan_;
  int64_t shifts_[kSize];
  int64_t weight_rows_[kSize];  // candidate * exp_stride
};

template <typename T>
void GatherRolledGrads(void* context, int64_t tile) {
  const FlushDenormals flush;
  const GatheredPlan& plan = *static_cast<const GatheredPlan*>(context);
  const int64_t begin = tile * plan.tile_rows;
  const int64_t end = begin + plan.tile_rows < plan.batch_size ? begin + plan.tile_rows : plan.batch_size;
  const int64_t dim = plan.embedding_dim;
  const T* user = static_cast<const T*>(plan.user);
  const T* exp_weights = static_cast<const T*>(plan.exp_weights);
  T* grad_item = static_cast<T*>(plan.grad_item);
  const T* item = static_cast<const T*>(plan.item);
  const T* inverses = static_cast<const T*>(plan.item_inverse);
  const bool in_registers = !plan.sparse && SumsInRegisters<T>(dim);
  int64_t offsets[kMaxItemStreams + 1], weight_offsets[kMaxItemStreams + 1];
  for (int64_t first = 0, n = 0; first < plan.num_candidates; first += n) {
    const int64_t left = plan.num_candidates - first;
    n = left <= kMaxItemStreams ? left : kStreams;
    const RolledUsers<kMaxItemStreams> users(plan, first, n);
    for (int64_t j = begin; j < end;) {
      int64_t stop = users.Offsets(j, offsets, weight_offsets);
      if (stop > end) stop = end;
      WeightedSum<T> sum{nullptr, weight_offsets, nullptr, offsets, plan.row_stride, n};
      if (first == 0) {  // The positive: the row's own user.
        offsets[n] = 0;
        weight_offsets[n] = static_cast<const T*>(plan.positive_weights) - exp_weights;
        ++sum.count;
      }
      const bool normalise = plan.normalise && in_registers && first + n == plan.num_candidates;
      while (j < stop) {
        sum.weights = exp_weights + j;
        sum.rows = user + j * plan.row_stride;
        T* grad = grad_item + j * dim;
        const NormaliseSum<T> last{normalise ? item + j * plan.row_stride : nullptr, inverses + j, plan.row_stride};
        if (plan.sparse) {
          AddNonzero<T>(sum, dim, first > 0, grad);
          j += 1;
        } else if (j + 1 < stop) {
          AddWeightedRows<T, 2>(sum, dim, first > 0, grad, last);
          j += 2;
        } else {
          AddWeightedRows<T, 1>(sum, dim, first > 0, grad, last);
          j += 1;
        }
      }
    }
  }
  if (!plan.normalise || in_registers) return;
  for (int64_t j = begin; j < end; ++j) {
    ThroughNormalisation<T>(item + j * plan.row_stride, inverses[j], dim, grad_item + j * dim);
  }
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_GATHERED_GATHER_ROLLED_GRADS_H_
