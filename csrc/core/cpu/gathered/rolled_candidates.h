// The rolled candidates: candidate k of row i is item row (i - shifts[k]) mod B, so item row j is candidate k of user
// row (j + shifts[k]) mod B.
#ifndef FASTNEG_CORE_CPU_GATHERED_ROLLED_CANDIDATES_H_
#define FASTNEG_CORE_CPU_GATHERED_ROLLED_CANDIDATES_H_

#include "core/cpu/gathered/plan.h"
#include "core/cpu/gathered/rows.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

class RolledCandidates {
 public:
  explicit RolledCandidates(const GatheredPlan& plan) : plan_(plan) {}

  // Whether there is anything to be found by.
  static constexpr bool Valid() { return true; }

  // Candidates first .. first + count - 1, of which at most kSize are looked at; places behind the last one repeat the
  // first.
  //
  // Where they lie is told relative to the row whose candidates they are. Rolled rows keep their distance until one of
  // them wraps around, so one table of offsets serves a run of rows.
  template <int kSize>
  class Group {
   public:
    Group(const RolledCandidates& candidates, int64_t first, int64_t count) : plan_(candidates.plan_) {
      for (int k = 0; k < kSize; ++k) {
        const int64_t candidate = first + (k < count ? k : 0);
        shifts_[k] = plan_.shifts[candidate];
        weight_rows_[k] = candidate * plan_.exp_stride;
      }
    }

    // Item rows of user row i.
    FASTNEG_INLINE void Items(int64_t i, int64_t* items) const {
      for (int k = 0; k < kSize; ++k) items[k] = i - shifts_[k] + (i < shifts_[k] ? plan_.batch_size : 0);
    }

    // Fills `offsets` with the places of user row i's candidates, in elements from prepared item row i on; returns the
    // first row behind i for which they are no longer right. Rows grow from call to call.
    FASTNEG_NOINLINE int64_t ItemOffsets(int64_t i, int64_t* offsets) const {
      int64_t until = plan_.batch_size;
      for (int k = 0; k < kSize; ++k) {
        const bool wraps = i < shifts_[k];
        if (wraps && shifts_[k] < until) until = shifts_[k];
        offsets[k] = ((wraps ? plan_.batch_size : 0) - shifts_[k]) * plan_.row_stride;
      }
      return until;
    }

    // The same for the user rows that have item row j as these candidates, from prepared user row j on, and for the
    // exponentials of those pairs, from element j of exp_weights on.
    FASTNEG_NOINLINE int64_t UserOffsets(int64_t j, int64_t* offsets, int64_t* weight_offsets) const {
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

 private:
  const GatheredPlan& plan_;
};

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_GATHERED_ROLLED_CANDIDATES_H_
