// Several rows of one group of lanes, kept in registers side by side and taken past the candidates together.
//
// A block then has kRows * kSets neighbouring rows under way. Where shifts are sorted and closer to each other than
// that, the windows of item rows that neighbouring shifts show to the block overlap, and what one row has brought into
// the first-level cache the next ones find there: each item row comes from the second-level cache once for some
// kRows * kSets * K / B pairs.
#ifndef FASTNEG_CORE_CUDA_GATHERED_ROW_SETS_CUH_
#define FASTNEG_CORE_CUDA_GATHERED_ROW_SETS_CUH_

#include <cstdint>

#include "core/cuda/gathered/plan.h"

namespace fastneg::cuda {

// kSets objects of type Pass, for the rows `row`, `row + stride`, ... A chain instead of an array: nothing may be found
// by a number that is known only when it runs, or it would not stay in registers.
template <typename Pass, int kSets>
class RowSets {
 public:
  __device__ RowSets(const GatheredPlan& plan, int64_t row, int stride)
      : first_(plan, row), others_(plan, row + stride, stride) {}

  // Calls visit(pass, number) for each.
  template <typename Visit>
  __device__ __forceinline__ void ForEach(const Visit& visit, int number = 0) {
    visit(first_, number);
    others_.ForEach(visit, number + 1);
  }

 private:
  Pass first_;
  RowSets<Pass, kSets - 1> others_;
};

template <typename Pass>
class RowSets<Pass, 0> {
 public:
  __device__ RowSets(const GatheredPlan&, int64_t, int) {}
  template <typename Visit>
  __device__ __forceinline__ void ForEach(const Visit&, int) {}
};

// Takes all rows past all candidates.
template <typename Pass, int kSets>
__device__ __forceinline__ void RunSets(const GatheredPlan& plan, RowSets<Pass, kSets>* rows) {
  rows->ForEach([](Pass& row, int) { row.Start(); });
  for (int first = 0; first < plan.num_candidates; first += Pass::kTogether) {
    rows->ForEach([first](Pass& row, int) { row.Step(first); });
    if constexpr (kSets > 1) __syncthreads();  // The block's warps stay where the others' item rows are.
  }
}

// Blocks of rows that share the first-level cache leave registers for one block at a time.
template <int kSets>
constexpr int kBlocksAtOnce = kSets > 1 ? 1 : 2;

}  // namespace fastneg::cuda

#endif  // FASTNEG_CORE_CUDA_GATHERED_ROW_SETS_CUH_
