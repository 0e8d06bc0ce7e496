// What one call of the pairwise logistic loss works on. Plain data, the same for every instruction set.
//
// Rows are sorted by session, and in a session by label; here "row k" is the k-th of that order. Rows of one session
// and label are a level. A range of whole levels is cut in two between levels, again and again: that makes blocks, in
// which every row above the cut is paired with every row below it, and, from kLeafRows rows on, leaves, whose rows are
// paired one by one. Every pair is in exactly one block or leaf. Blocks of one depth share no row.
#ifndef FASTNEG_CORE_CPU_PAIRWISE_PLAN_H_
#define FASTNEG_CORE_CPU_PAIRWISE_PLAN_H_

#include <cstdint>

#include "core/api.h"
#include "core/cpu/pairwise/series.h"

namespace fastneg::cpu {

constexpr int64_t kLeafRows = 256;      // A leaf has at most so many.
constexpr int64_t kLeavesPerTask = 32;  // Leaves may have two rows only.
constexpr int64_t kFinishRows = 4096;   // Rows whose results are written, and added up, by one task.

struct RowRange {
  uint32_t begin, end;
};

// Which part of a block a row belongs to.
enum Side : uint32_t { kBelow, kAbove };

// Rows [begin, middle) lie below rows [middle, end).
struct PairwiseBlock {
  uint32_t begin = 0, middle = 0, end = 0;
  bool direct = false;  // Pair by pair; nothing below is set then.

  // By side: the boxes that its rows lie in, moments of each by chunk of rows, and what the other side's rows add up to
  // as a polynomial in the place in the box.
  int64_t first_box[2] = {};
  int64_t num_boxes[2] = {};
  int64_t num_chunks[2] = {};
  double* moments[2] = {};   // [num_chunks, num_boxes, kSeriesTerms]
  double* slopes[2] = {};    // [num_boxes, kSeriesTerms] of sigmoid.
  double* values = nullptr;  // [num_boxes[kAbove], kSeriesTerms] of softplus.

  RowRange rows(Side side) const { return side == kAbove ? RowRange{middle, end} : RowRange{begin, middle}; }
};

struct PairwiseTask {
  const PairwiseBlock* block;
  Side side;
  RowRange rows;
  double* moments;  // Of this chunk; null where the block is direct.
};

struct PairwisePlan {
  int64_t batch_size = 0;
  DType dtype = DType::kFloat32;
  const void* logits = nullptr;
  const void* weights = nullptr;  // In the batch's order, or null.
  double margin = 0.0;
  double temperature = 1.0;
  double inverse_count = 0.0;  // 1 / number of pairs with a weight.
  bool want_slopes = false;
  const PairwiseSeries* series = nullptr;

  // [batch_size], by sorted row; rows that make no pair may come anywhere.
  const uint32_t* order = nullptr;        // Place in the batch.
  const uint32_t* level_begin = nullptr;  // First row of the level.
  double* position = nullptr;             // (x - a number of the session) / temperature
  double* sorted_weights = nullptr;       // Null where `weights` is.
  double* value = nullptr;                // S, the sum of softplus over the pairs in which the row is above.
  double* slope_above = nullptr;          // The sum of sigmoid over the same pairs; null where not wanted.
  double* slope_below = nullptr;          // The weighted sum of sigmoid over the pairs in which the row is below.

  // The depth that is being worked on.
  const PairwiseTask* moment_tasks = nullptr;
  const PairwiseTask* evaluate_tasks = nullptr;
  const PairwiseBlock* blocks = nullptr;

  const RowRange* leaves = nullptr;
  int64_t num_leaves = 0;

  // Results; null where not wanted.
  void* grad_logits = nullptr;
  void* grad_weights = nullptr;
  double* finish_sums = nullptr;  // By finish task: loss, d margin, d temperature.
};

}  // namespace fastneg::cpu

#endif  // FASTNEG_CORE_CPU_PAIRWISE_PLAN_H_
