// What one call of the in-batch loss, or of the ranks, works on: every query scores every candidate.
//
// Positives are no candidates of their own here: the place that they have among all scores stays out of every sum over
// negatives, and gets its own coefficient before the candidates' gradients are formed.
#ifndef FASTNEG_CORE_CPU_SHARED_IN_BATCH_PLAN_H_
#define FASTNEG_CORE_CPU_SHARED_IN_BATCH_PLAN_H_

#include <cstdint>

#include "core/cpu/shared/plan.h"
#include "core/cpu/shared/same_ids.h"

namespace fastneg::cpu {

// What products of pairs of bfloat16 take (in_batch_pairs.h); all null for others. 4 bytes a pair.
struct InBatchPairs {
  int64_t stride = 0;       // Pairs of dimensions from query to query.
  int64_t block_pairs = 0;  // Pairs of rows that a block has room for.
  void* rows = nullptr;     // [padded / 2, dim_stride] pairs of candidates.
  // Slots:
  void* queries = nullptr;       // [block_rows, stride] pairs of dimensions.
  void* scaled = nullptr;        // [block_pairs, dim_stride] pairs of rows.
  void* panel = nullptr;         // [block_rows, panel_width / 2] pairs of candidates.
  void* coefficients = nullptr;  // [padded, block_pairs] pairs of rows.
};

struct InBatchPlan : SharedPlan {
  const void* candidates = nullptr;
  int64_t candidate_stride = 0;
  const int64_t* positives = nullptr;       // [B] or null.
  const void* weights = nullptr;            // [B] or null.
  const void* probability = nullptr;        // [C] or null.
  const uint8_t* candidate_mask = nullptr;  // [C] or null.
  const uint8_t* score_mask = nullptr;      // [B, C] or null.
  const uint8_t* is_positive = nullptr;     // [C]: candidates that are somebody's; null: the first B.
  SameIds same_ids;

  double margin = 0.0;
  double t = 1.0;
  int64_t num_hard_negatives = 0;
  double label_smoothing = 0.0;
  bool refined = false;
  bool positive_in_softmax = true;
  double negative_weight = 1.0;
  double row_factor = 1.0;  // What weights are multiplied by: 1 / number of rows that count, or 1.

  bool reweights = false;    // Hard negatives' scores are changed, or the gradient of t is wanted.
  bool counts = false;       // A row's negatives are counted, and their logits added.
  bool two_ways = false;     // Candidates are classified too.
  bool scores_again = true;  // Two ways: the second sweep does not find the scores of the first.

  // Results; null where not wanted.
  void* row_loss = nullptr;  // [B], before weights.
  void* grad_candidates = nullptr;
  void* row_scalars = nullptr;  // [3, B] what rows add to the gradients by temperature, margin and t.
  int32_t* ranks = nullptr;     // [B]

  void* neg_log_q = nullptr;  // [padded] -log q, or null for 0. Offsets are these, and -inf for masked candidates.

  InBatchPairs pairs;

  // Slots.
  void* block_logits = nullptr;   // [padded] of one row; only with num_hard_negatives, as the next.
  void* block_listed = nullptr;   // [padded] those among which the hardest are.
  void* block_columns = nullptr;  // [3, padded] a block's sums by column: exponentials, members, logits; two ways only.

  // Two ways: what the first sweep finds out for the second. By row:
  void* row_references = nullptr;  // [B]
  void* row_scales = nullptr;      // [B] d loss / d logit is exponential * scale + share.
  void* row_shares = nullptr;      // [B]
  void* own_logits = nullptr;      // [B] z_ii.
  void* positive_grads = nullptr;  // [B] d loss / d z_ii, first of rows, then of both.
  // By column, [padded], 0 behind the first B:
  void* column_references = nullptr;
  void* column_sums = nullptr;  // [3, padded] as block_columns.
  void* column_scales = nullptr;
  void* column_shares = nullptr;
  void* factors = nullptr;          // exp(offsets)
  uint8_t* out_of_range = nullptr;  // [num_panels + num_blocks]: a reference did not suit a column, or a row.
  // One reference for all rows and columns: an exponential then serves both. Only with `factors`.
  bool one_reference = false;
  double reference = 0.0;
};

}  // namespace fastneg::cpu

#endif  // FASTNEG_CORE_CPU_SHARED_IN_BATCH_PLAN_H_
