// Second pass of the gathered losses: every active row meets its candidates once. Scores, exponentials, the row's loss
// and the user gradient come out of one sweep; the candidates' exponentials are kept for the item pass.
#ifndef FASTNEG_CORE_CPU_GATHERED_SCORE_ROWS_H_
#define FASTNEG_CORE_CPU_GATHERED_SCORE_ROWS_H_

#include "core/cpu/gathered/finish_rows.h"
#include "core/cpu/gathered/narrow_sweep.h"
#include "core/cpu/gathered/plan.h"
#include "core/cpu/gathered/row_tile.h"
#include "core/cpu/gathered/wide_sweep.h"
#include "core/cpu/runtime/flush_denormals.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

// Takes a tile's rows past all candidates, a few candidates at a time. kChunks is the length of prepared rows in
// vectors, or 0 for one that is known only now.
template <int kChunks, typename T>
FASTNEG_INLINE void SweepChunks(const GatheredPlan& plan, RowTile<T>* tile) {
  constexpr int kL = kLanes<T>;
  WideSweep<T> wide(plan, tile);
  NarrowSweep<T> narrow(plan, tile);
  for (int64_t k = 0; k < plan.num_candidates;) {
    const int64_t left = plan.num_candidates - k;
    if (left > kL / 2 || kL < 4) {
      k += wide.template Run<kChunks>(k, left);
    } else if (left > kL / 4) {
      k += narrow.template Run<2>(k, left);
    } else if (left > 1) {
      k += narrow.template Run<(kL >= 4 ? 4 : 1)>(k, left);
    } else {
      k += narrow.template Run<kL>(k, left);
    }
  }
}

template <typename T>
FASTNEG_INLINE void SweepCandidates(const GatheredPlan& plan, RowTile<T>* tile) {
  if constexpr (sizeof(T) == 4 && kVectorBytes == 64) {  // 32 registers: enough for whole rows.
    if (tile->chunks == 2) return SweepChunks<2>(plan, tile);
    if (tile->chunks == 4) return SweepChunks<4>(plan, tile);
    if (tile->chunks == 8) return SweepChunks<8>(plan, tile);
  }
  SweepChunks<0>(plan, tile);
}

template <typename T>
void ScoreRows(void* context, int64_t index) {
  const FlushDenormals flush;
  const GatheredPlan& plan = *static_cast<const GatheredPlan*>(context);
  if (FirstInvalidPermutation(plan) < plan.num_candidates) return;
  RowTile<T> tile(plan, index);
  tile.Start();
  SweepCandidates<T>(plan, &tile);
  FinishRows<T>(plan, &tile).Run();
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_GATHERED_SCORE_ROWS_H_
