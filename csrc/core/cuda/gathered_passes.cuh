// Choosing and launching the passes of the gathered losses for one storage type.
#ifndef FASTNEG_CORE_CUDA_GATHERED_PASSES_CUH_
#define FASTNEG_CORE_CUDA_GATHERED_PASSES_CUH_

#include "core/cuda/gather_item_grads.cuh"
#include "core/cuda/gathered_kernels.h"
#include "core/cuda/launch.h"
#include "core/cuda/prepare_rows.cuh"
#include "core/cuda/rolled_candidates.cuh"
#include "core/cuda/score_rows.cuh"
#include "core/cuda/shuffled_candidates.cuh"

namespace fastneg::cuda {

template <typename Row, typename Candidates>
Status LaunchPasses(const GatheredPlan& plan, Stream stream) {
  constexpr int kRows = kBlockThreads / Row::kLanes;
  const int64_t prepare_blocks = (plan.batch_size + int64_t{kPrepareRows} - 1) / kPrepareRows;
  const int64_t candidate_blocks = Candidates::NumPrepareBlocks(plan);
  const int64_t row_blocks = (plan.batch_size + int64_t{kRows} - 1) / kRows;
  Status status = Launch(PrepareKernel<typename Row::Element, Row::kVec, Candidates>, prepare_blocks + candidate_blocks,
                         kBlockThreads, stream, plan, static_cast<int>(prepare_blocks));
  if (status != Status::kOk) return status;
  if (plan.grad_user == nullptr) {
    return Launch(ScoreRowsKernel<Row, Candidates, false>, row_blocks, kBlockThreads, stream, plan);
  }
  status = Launch(ScoreRowsKernel<Row, Candidates, true>, row_blocks, kBlockThreads, stream, plan);
  if (status != Status::kOk) return status;
  return Launch(GatherItemGradsKernel<Row, Candidates>, row_blocks, kBlockThreads, stream, plan);
}

template <typename Storage, typename Candidates>
Status LaunchLayout(const GatheredPlan& plan, RowLayout layout, Stream stream) {
  // Float64 is read element by element: there is nothing to gain, as its arithmetic is the bound.
  if constexpr (sizeof(Storage) < 8) {
    constexpr int kVec = kWide<Storage>;
    switch (layout) {
      case RowLayout::kRowsOf8Packs:
        return LaunchPasses<RegisterRow<Storage, kVec, 8, 1>, Candidates>(plan, stream);
      case RowLayout::kRowsOf16Packs:
        return LaunchPasses<RegisterRow<Storage, kVec, 16, 1>, Candidates>(plan, stream);
      case RowLayout::kRowsOf32Packs:
        return LaunchPasses<RegisterRow<Storage, kVec, 32, 1>, Candidates>(plan, stream);
      case RowLayout::kRowsOf64Packs:
        return LaunchPasses<RegisterRow<Storage, kVec, 32, 2>, Candidates>(plan, stream);
      case RowLayout::kLongPackedRows:
        return LaunchPasses<MemoryRow<Storage, kVec>, Candidates>(plan, stream);
      default:
        break;
    }
  }
  if (layout == RowLayout::kRows) {
    return LaunchPasses<RegisterRow<Storage, 1, 32, kMostElements / 32>, Candidates>(plan, stream);
  }
  return LaunchPasses<MemoryRow<Storage, 1>, Candidates>(plan, stream);
}

}  // namespace fastneg::cuda

#endif  // FASTNEG_CORE_CUDA_GATHERED_PASSES_CUH_
