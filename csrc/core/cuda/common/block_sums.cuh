// From rows to one number: sums in an order that does not depend on which block runs when.
//
// Every block adds its rows in order and stores the sums. The last one to finish, found by an integer ticket, adds
// those of all blocks: each thread every kBlockThreads-th, then lane by lane and warp after warp. All in float64.
#ifndef FASTNEG_CORE_CUDA_COMMON_BLOCK_SUMS_CUH_
#define FASTNEG_CORE_CUDA_COMMON_BLOCK_SUMS_CUH_

#include <cuda_runtime.h>

#include "core/cuda/common/blocks.h"
#include "core/cuda/common/lanes.cuh"
#include "core/cuda/common/storage.cuh"

namespace fastneg::cuda {

constexpr int kNumSums = 4;  // Loss and three parameters' derivatives.

// Where the sums of a call go.
struct Totals {
  Control* control;
  double* block_sums;    // [blocks, kNumSums]
  void* loss;            // [1]
  void* grad_scalars;    // [3] or null.
  int64_t* error_index;  // Or null.
};

// Called by all threads of all blocks. `rows` holds the sums of the block's `num_rows` rows, in shared memory.
template <typename T>
__device__ void AddUpRows(const Totals& totals, const double (*rows)[kNumSums], int num_rows) {
  constexpr int kWarps = kBlockThreads / kWarpSize;
  __shared__ double parts[kWarps][kNumSums];
  __shared__ bool last;
  const int thread = static_cast<int>(threadIdx.x);
  __syncthreads();
  if (thread < kNumSums) {
    double sum = 0;
    for (int r = 0; r < num_rows; ++r) sum += rows[r][thread];
    totals.block_sums[int64_t{blockIdx.x} * kNumSums + thread] = sum;
    __threadfence();
  }
  __syncthreads();
  if (thread == 0) last = atomicAdd(&totals.control->tickets, 1u) == gridDim.x - 1;
  __syncthreads();
  if (!last) return;
  __threadfence();
  double part[kNumSums] = {};
  for (int64_t block = thread; block < gridDim.x; block += kBlockThreads) {
    // Not through the first-level cache, which knows nothing of other blocks' stores.
#pragma unroll
    for (int s = 0; s < kNumSums; ++s) part[s] += __ldcg(totals.block_sums + block * kNumSums + s);
  }
#pragma unroll
  for (int s = 0; s < kNumSums; ++s) {
    part[s] = Lanes<kWarpSize>::Sum(part[s]);
    if (thread % kWarpSize == 0) parts[thread / kWarpSize][s] = part[s];
  }
  __syncthreads();
  if (thread >= kNumSums) return;
  double sum = 0;
  for (int warp = 0; warp < kWarps; ++warp) sum += parts[warp][thread];
  const unsigned long long error = totals.control->error;
  const T value = error == 0 ? T(sum) : NotANumber<T>();
  if (thread == 0) {
    *static_cast<T*>(totals.loss) = value;
    if (totals.error_index != nullptr) *totals.error_index = error == 0 ? -1 : static_cast<int64_t>(~error);
  } else if (totals.grad_scalars != nullptr) {
    static_cast<T*>(totals.grad_scalars)[thread - 1] = value;
  }
}

}  // namespace fastneg::cuda

#endif  // FASTNEG_CORE_CUDA_COMMON_BLOCK_SUMS_CUH_
