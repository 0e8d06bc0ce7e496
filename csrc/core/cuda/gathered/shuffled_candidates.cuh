// The shuffled candidates: candidate k of row i is item row permutations[k][i], so item row j is candidate k of the
// user row inverse[k][j].
#ifndef FASTNEG_CORE_CUDA_GATHERED_SHUFFLED_CANDIDATES_CUH_
#define FASTNEG_CORE_CUDA_GATHERED_SHUFFLED_CANDIDATES_CUH_

#include <cuda_runtime.h>

#include "core/cuda/gathered/plan.h"

namespace fastneg::cuda {

class ShuffledCandidates {
 public:
  static constexpr bool kSorted = false;

  explicit __device__ ShuffledCandidates(const GatheredPlan& plan) : plan_(plan) {}

  // Only called where the arrays turned out to be permutations.
  __device__ int Item(int i, int k) const { return static_cast<int>(Given(plan_, int64_t{k} * plan_.batch_size + i)); }
  __device__ int User(int j, int k) const {
    return static_cast<int>(plan_.inverses[int64_t{k} * plan_.batch_size + j]);
  }

  static __host__ int64_t NumPrepareBlocks(const GatheredPlan& plan) {
    const int64_t entries = int64_t{plan.num_candidates} * plan.batch_size;
    return (entries + kBlockEntries - 1) / kBlockEntries;
  }

  // Inverts the permutations and finds the first entry that is out of range or repeats one before it. Each inverse
  // keeps the least of the rows that claim it, in whatever order they come. Of a set of rows with the same entry the
  // second least is the one to report: it and the least always meet, and no other two report a lesser row.
  static __device__ void Prepare(const GatheredPlan& plan, int64_t block) {
    const int64_t entries = int64_t{plan.num_candidates} * plan.batch_size;
    for (int64_t e = block * kBlockEntries + threadIdx.x; e < entries && e < (block + 1) * kBlockEntries;
         e += kBlockThreads) {
      const int64_t row = e / plan.batch_size;
      const unsigned int column = static_cast<unsigned int>(e - row * plan.batch_size);
      const int64_t j = Given(plan, e);
      unsigned int repeated = kNobody;
      if (j < 0 || j >= plan.batch_size) {
        repeated = column;
      } else {
        const unsigned int other = atomicMin(plan.inverses + row * plan.batch_size + j, column);
        if (other != kNobody) repeated = other > column ? other : column;
      }
      if (repeated != kNobody) {
        atomicMax(&plan.control->error, ~static_cast<unsigned long long>(row * plan.batch_size + repeated));
      }
    }
  }

 private:
  static constexpr int64_t kBlockEntries = 4 * kBlockThreads;
  static constexpr unsigned int kNobody = 0xffffffffu;

  static __device__ int64_t Given(const GatheredPlan& plan, int64_t entry) {
    return plan.permutations_are_64_bit ? static_cast<const int64_t*>(plan.permutations)[entry]
                                        : static_cast<const int32_t*>(plan.permutations)[entry];
  }

  const GatheredPlan& plan_;
};

}  // namespace fastneg::cuda

#endif  // FASTNEG_CORE_CUDA_GATHERED_SHUFFLED_CANDIDATES_CUH_
