// The rolled candidates: candidate k of row i is item row (i - shifts[k]) mod B, so item row j is candidate k of user
// row (j + shifts[k]) mod B.
//
// The shifts are sorted first: the loss does not depend on their order, and rows of a block that are at the same place
// of a sorted list meet neighbouring candidates, which the first-level cache then serves.
#ifndef FASTNEG_CORE_CUDA_GATHERED_ROLLED_CANDIDATES_CUH_
#define FASTNEG_CORE_CUDA_GATHERED_ROLLED_CANDIDATES_CUH_

#include <cuda_runtime.h>

#include "core/cuda/gathered/plan.h"

namespace fastneg::cuda {

class RolledCandidates {
 public:
  static constexpr bool kSorted = true;  // Neighbouring rows meet neighbouring rows at nearly the same time.

  explicit __device__ RolledCandidates(const GatheredPlan& plan) : batch_size_(plan.batch_size), shifts_(plan.shifts) {}

  __device__ int Item(int i, int k) const {
    const int j = i - shifts_[k];
    return j < 0 ? j + batch_size_ : j;
  }
  __device__ int User(int j, int k) const {
    const int room = batch_size_ - j;  // B itself may be close to the largest int.
    return shifts_[k] < room ? j + shifts_[k] : shifts_[k] - room;
  }

  static __host__ int64_t NumPrepareBlocks(const GatheredPlan& plan) {
    return (plan.num_candidates + int64_t{kBlockThreads} - 1) / kBlockThreads;
  }

  // Sorts by counting: a thread finds the place of its shift among all. K^2 comparisons, spread over as many threads as
  // there are shifts: little beside the K * B pairs that follow, as K < B.
  static __device__ void Prepare(const GatheredPlan& plan, int block) {
    __shared__ int tile[kBlockThreads];
    const int thread = static_cast<int>(threadIdx.x);
    const int own = block * kBlockThreads + thread;
    const int size = plan.num_candidates;
    const int shift = own < size ? Reduced(plan, own) : 0;
    int place = 0;
    for (int first = 0; first < size; first += kBlockThreads) {
      if (first + thread < size) tile[thread] = Reduced(plan, first + thread);
      __syncthreads();
      const int count = size - first < kBlockThreads ? size - first : kBlockThreads;
      for (int l = 0; l < count; ++l) place += tile[l] < shift || (tile[l] == shift && first + l < own);
      __syncthreads();
    }
    if (own >= size) return;
    plan.shifts[place] = shift;
    if (shift == 0) atomicMax(&plan.control->error, ~static_cast<unsigned long long>(own));
  }

 private:
  static __device__ int Reduced(const GatheredPlan& plan, int k) {
    int64_t remainder = plan.given_shifts[k];
    // Nearly all shifts are in range; a division takes a hundred instructions.
    if (remainder < 0 || remainder >= plan.batch_size) remainder %= plan.batch_size;
    return static_cast<int>(remainder < 0 ? remainder + plan.batch_size : remainder);
  }

  const int batch_size_;
  const int* const shifts_;
};

}  // namespace fastneg::cuda

#endif  // FASTNEG_CORE_CUDA_GATHERED_ROLLED_CANDIDATES_CUH_
