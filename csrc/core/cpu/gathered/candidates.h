// Which item rows a user row meets. Rolled: candidate k of row i is item row (i - shifts[k]) mod B. Shuffled: it is
// item row permutations[k][i].
//
// One class for both: as a parameter of templates they would have the second pass, most of the family's code, compiled
// twice, for the sake of one branch that is always predicted.
#ifndef FASTNEG_CORE_CPU_GATHERED_CANDIDATES_H_
#define FASTNEG_CORE_CPU_GATHERED_CANDIDATES_H_

#include "core/cpu/gathered/plan.h"
#include "core/cpu/simd/simd.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

// Candidates first .. first + count - 1, of which at most kSize are looked at; places behind the last one repeat the
// first.
template <int kSize>
class CandidateGroup {
 public:
  CandidateGroup(const GatheredPlan& plan, int64_t first, int64_t count) : plan_(plan) {
    for (int k = 0; k < kSize; ++k) {
      const int64_t candidate = first + (k < count ? k : 0);
      if (plan.is_shuffled()) {
        permutations_[k] = plan.permutations + candidate * plan.permutation_stride;
      } else {
        shifts_[k] = plan.shifts[candidate];
      }
    }
  }

  // Item rows of user row i. Called, as only ids and the logQ correction need it.
  FASTNEG_NOINLINE void Items(int64_t i, int64_t* items) const {
    if (plan_.is_shuffled()) {
      for (int k = 0; k < kSize; ++k) items[k] = permutations_[k][i];
    } else {
      for (int k = 0; k < kSize; ++k) items[k] = i - shifts_[k] + (i < shifts_[k] ? plan_.batch_size : 0);
    }
  }

  // Fills `offsets` with the places of user row i's candidates, in elements from prepared item row i on; returns the
  // first row behind i for which they are no longer right. Rows grow from call to call. Rolled rows keep their distance
  // until one of them wraps around, so one table of offsets serves a run of rows; shuffled rows need one each.
  FASTNEG_INLINE int64_t ItemOffsets(int64_t i, int64_t* offsets) const {
    if (!plan_.is_shuffled()) return RolledItemOffsets(i, offsets);
    for (int k = 0; k < kSize; ++k) offsets[k] = (permutations_[k][i] - i) * plan_.row_stride;
    return i + 1;
  }

 private:
  FASTNEG_NOINLINE int64_t RolledItemOffsets(int64_t i, int64_t* offsets) const {
    int64_t until = plan_.batch_size;
    for (int k = 0; k < kSize; ++k) {
      const bool wraps = i < shifts_[k];
      if (wraps && shifts_[k] < until) until = shifts_[k];
      offsets[k] = ((wraps ? plan_.batch_size : 0) - shifts_[k]) * plan_.row_stride;
    }
    return until;
  }

  const GatheredPlan& plan_;
  // One of the two.
  int64_t shifts_[kSize];
  const int32_t* permutations_[kSize];
};

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_GATHERED_CANDIDATES_H_
