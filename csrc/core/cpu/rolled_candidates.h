// The rolled candidates: candidate k of row i is item row (i - shifts[k]) mod B, so item row j is candidate k of user
// row (j + shifts[k]) mod B.
#ifndef FASTNEG_CORE_CPU_ROLLED_CANDIDATES_H_
#define FASTNEG_CORE_CPU_ROLLED_CANDIDATES_H_

#include "core/cpu/gathered_plan.h"
#include "core/cpu/gathered_rows.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

class RolledCandidates {
 public:
  explicit RolledCandidates(const GatheredPlan& plan) : plan_(plan) {}

  // Candidates first .. first + count - 1, of which at most kSize are looked at; places behind the last one repeat the
  // first. Every method fills kSize entries.
  template <int kSize>
  class Group {
   public:
    Group(const RolledCandidates& candidates, int64_t first, int64_t count) : plan_(candidates.plan_) {
      for (int64_t k = 0; k < kPadded; ++k) {
        const int64_t candidate = first + (k < count && k < kSize ? k : 0);
        shifts_[k] = plan_.shifts[candidate];
        row_steps_[k] = shifts_[k] * plan_.row_stride;
        weight_steps_[k] = candidate * plan_.exp_stride + shifts_[k];
      }
    }

    // Item rows of user row i.
    FASTNEG_INLINE void Items(int64_t i, int64_t* items) const {
      for (int k = 0; k < kSize; ++k) items[k] = i - shifts_[k] + (i < shifts_[k] ? plan_.batch_size : 0);
    }

    // The same as offsets into the prepared item rows.
    FASTNEG_INLINE void ItemOffsets(int64_t i, int64_t* offsets) const {
      const int64_t row = i * plan_.row_stride;
      const int64_t wrap = plan_.batch_size * plan_.row_stride;
      if constexpr (kSize % kIndexLanes == 0) {
        for (int k = 0; k < kSize; k += kIndexLanes) {
          const IndexVec offset = row - LoadIndices(row_steps_ + k);
          StoreIndices(offsets + k, offset + ((offset >> 63) & wrap));
        }
        KeepInMemory<kSize>(offsets);
      } else {
        for (int k = 0; k < kSize; ++k) offsets[k] = row - row_steps_[k] + (i < shifts_[k] ? wrap : 0);
      }
    }

    // User rows of item row j as offsets into the prepared user rows, and where their exponentials lie.
    FASTNEG_INLINE void UserOffsets(int64_t j, int64_t* offsets, int64_t* weight_offsets) const {
      const int64_t row = j * plan_.row_stride;
      const int64_t wrap = plan_.batch_size * plan_.row_stride;
      static_assert(kSize % kIndexLanes == 0, "Item groups are whole vectors.");
      for (int k = 0; k < kSize; k += kIndexLanes) {
        const IndexVec wraps = LoadIndices(shifts_ + k) >= plan_.batch_size - j;
        StoreIndices(offsets + k, row + LoadIndices(row_steps_ + k) - (wraps & wrap));
        StoreIndices(weight_offsets + k, j + LoadIndices(weight_steps_ + k) - (wraps & plan_.batch_size));
      }
      KeepInMemory<kSize>(offsets);
      KeepInMemory<kSize>(weight_offsets);
    }

   private:
    static constexpr int kPadded = (kSize + kIndexLanes - 1) / kIndexLanes * kIndexLanes;

    const GatheredPlan& plan_;
    alignas(64) int64_t shifts_[kPadded];
    int64_t row_steps_[kPadded];     // shift * row_stride
    int64_t weight_steps_[kPadded];  // candidate * exp_stride + shift
  };

 private:
  const GatheredPlan& plan_;
};

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_ROLLED_CANDIDATES_H_
