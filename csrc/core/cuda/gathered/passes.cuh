// Choosing and launching the passes of the gathered losses for one storage type.
#ifndef FASTNEG_CORE_CUDA_GATHERED_PASSES_CUH_
#define FASTNEG_CORE_CUDA_GATHERED_PASSES_CUH_

#include "core/cuda/common/launch.h"
#include "core/cuda/gathered/gather_item_grads.cuh"
#include "core/cuda/gathered/kernels.h"
#include "core/cuda/gathered/prepare_rows.cuh"
#include "core/cuda/gathered/rolled_candidates.cuh"
#include "core/cuda/gathered/score_rows.cuh"
#include "core/cuda/gathered/shuffled_candidates.cuh"

namespace fastneg::cuda {

// Rows of a block, at most, that takes its rows in sets (row_sets.cuh), and how many such blocks there have to be.
constexpr int kNeighbours = 64;
#if !defined(FASTNEG_CUDA_BLOCKS_FOR_ALL)
#define FASTNEG_CUDA_BLOCKS_FOR_ALL 128  // Tests choose a small number, for small problems.
#endif
constexpr int kBlocksForAll = FASTNEG_CUDA_BLOCKS_FOR_ALL;

template <typename Row, typename Candidates, int kSets>
Status LaunchRowPasses(const GatheredPlan& plan, Stream stream) {
  constexpr int64_t kRows = kSets * (kBlockThreads / Row::kLanes);
  const int64_t blocks = (plan.batch_size + kRows - 1) / kRows;
  if (plan.grad_user == nullptr) {
    return Launch(ScoreRowsKernel<Row, Candidates, kSets, false>, blocks, kBlockThreads, stream, plan);
  }
  const Status status = Launch(ScoreRowsKernel<Row, Candidates, kSets, true>, blocks, kBlockThreads, stream, plan);
  if (status != Status::kOk) return status;
  return Launch(GatherItemGradsKernel<Row, Candidates, kSets>, blocks, kBlockThreads, stream, plan);
}

// Whether blocks of `rows` rows are worth it: a row finds at least one other that meets the same candidates, and there
// are blocks enough for every multiprocessor of a large GPU.
inline bool AreNeighbours(const GatheredPlan& plan, int64_t rows) {
  return plan.num_candidates * rows >= 2 * int64_t{plan.batch_size} && plan.batch_size >= rows * kBlocksForAll;
}

template <typename Row, typename Candidates>
Status LaunchPasses(const GatheredPlan& plan, Stream stream) {
  const int64_t prepare_blocks = (plan.batch_size + int64_t{kPrepareRows} - 1) / kPrepareRows;
  const int64_t candidate_blocks = Candidates::NumPrepareBlocks(plan);
  const Status status =
      Launch(PrepareKernel<typename Row::Element, Row::kVec, Candidates>, prepare_blocks + candidate_blocks,
             kBlockThreads, stream, plan, static_cast<int>(prepare_blocks));
  if (status != Status::kOk) return status;
  if constexpr (Candidates::kSorted && Row::kMostSets > 1) {
    constexpr int kRows = kBlockThreads / Row::kLanes;
    constexpr int kSets = kNeighbours / kRows < Row::kMostSets ? kNeighbours / kRows : Row::kMostSets;
    if (AreNeighbours(plan, kSets * kRows)) return LaunchRowPasses<Row, Candidates, kSets>(plan, stream);
  }
  return LaunchRowPasses<Row, Candidates, 1>(plan, stream);
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
