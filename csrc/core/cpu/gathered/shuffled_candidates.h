// The shuffled candidates: candidate k of row i is item row permutations[k][i], so item row j is candidate k of the
// user row inverse[k][j].
#ifndef FASTNEG_CORE_CPU_GATHERED_SHUFFLED_CANDIDATES_H_
#define FASTNEG_CORE_CPU_GATHERED_SHUFFLED_CANDIDATES_H_

#include "core/cpu/gathered/plan.h"
#include "core/cpu/simd/simd.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

class ShuffledCandidates {
 public:
  explicit ShuffledCandidates(const GatheredPlan& plan) : plan_(plan) {}

  // False if any permutation turned out to be none.
  bool Valid() const { return FirstInvalidPermutation(plan_) == plan_.num_candidates; }

  // As RolledCandidates::Group, except that every row needs a table of its own.
  template <int kSize>
  class Group {
   public:
    Group(const ShuffledCandidates& candidates, int64_t first, int64_t count) : plan_(candidates.plan_) {
      for (int k = 0; k < kSize; ++k) {
        const int64_t candidate = first + (k < count ? k : 0);
        permutations_[k] = plan_.permutations + candidate * plan_.permutation_stride;
      }
    }

    FASTNEG_INLINE void Items(int64_t i, int64_t* items) const {
      for (int k = 0; k < kSize; ++k) items[k] = permutations_[k][i];
    }

    FASTNEG_INLINE int64_t ItemOffsets(int64_t i, int64_t* offsets) const {
      for (int k = 0; k < kSize; ++k) offsets[k] = (permutations_[k][i] - i) * plan_.row_stride;
      return i + 1;
    }

   private:
    const GatheredPlan& plan_;
    const int32_t* permutations_[kSize];
  };

 private:
  const GatheredPlan& plan_;
};

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_GATHERED_SHUFFLED_CANDIDATES_H_
