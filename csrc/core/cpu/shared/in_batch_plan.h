// What one call of the in-batch loss, or of the ranks, works on: every query scores every candidate.
//
// Plain data, the same for every instruction set. void pointers hold the compute type (float or double) unless a
// comment says otherwise.
//
// As in plan.h, a block of rows meets the candidates panel by panel, and blocks are worked on in rounds, so that every
// sum has one owner. Positives are no candidates of their own here: the place that they have among all scores stays out
// of every sum over negatives, and gets its own coefficient before the candidates' gradients are formed.
#ifndef FASTNEG_CORE_CPU_SHARED_IN_BATCH_PLAN_H_
#define FASTNEG_CORE_CPU_SHARED_IN_BATCH_PLAN_H_

#include <cstdint>

#include "core/api.h"
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

struct InBatchPlan {
  int64_t batch_size = 0;      // B
  int64_t num_candidates = 0;  // C
  int64_t embedding_dim = 0;   // D
  int64_t dim_stride = 0;      // Of prepared rows: D rounded up to whole 64-byte lines, or one more.

  int64_t panel_width = 0;  // Candidates that are scored side by side, from InBatchKernels.
  int64_t num_panels = 0;
  int64_t block_rows = 0;  // Rows whose contributions to a candidate are added before anything else is.
  int64_t num_blocks = 0;
  int64_t blocks_per_round = 0;  // As many slots; no result depends on it.

  DType dtype = DType::kFloat32;  // Of queries and candidates.
  const void* queries = nullptr;
  const void* candidates = nullptr;
  int64_t query_stride = 0;
  int64_t candidate_stride = 0;
  const int64_t* positives = nullptr;       // [B] or null.
  const void* weights = nullptr;            // [B] or null.
  const void* probability = nullptr;        // [C] or null.
  const uint8_t* candidate_mask = nullptr;  // [C] or null.
  const uint8_t* score_mask = nullptr;      // [B, C] or null.
  const uint8_t* is_positive = nullptr;     // [C]: candidates that are somebody's; null: the first B.
  SameIds same_ids;

  double temperature = 1.0;
  double margin = 0.0;
  double t = 1.0;
  bool normalize = false;
  int64_t num_hard_negatives = 0;
  double label_smoothing = 0.0;
  bool refined = false;
  bool positive_in_softmax = true;
  double negative_weight = 1.0;
  double row_factor = 1.0;  // What weights are multiplied by: 1 / number of rows that count, or 1.

  bool reweights = false;    // Hard negatives' scores are changed, or the gradient of t is wanted.
  bool counts = false;       // A row's negatives are counted, and their logits added.
  bool transforms = false;   // Exponentials become coefficients only once a row's sums are known.
  bool two_ways = false;     // Candidates are classified too.
  bool sparse = false;       // So few negatives are kept that the products had better pass over the others.
  bool keeps_panels = true;  // Slots hold all panels of a block, not one.
  bool scores_again = true;  // Two ways: the second sweep does not find the scores of the first.
  // Offsets are part of the panels' logits; else they are added after the re-weighting.
  bool offsets_in_scores = true;

  // Results; null where not wanted.
  void* row_loss = nullptr;      // [B], before weights.
  void* grad_queries = nullptr;  // [B, D]; with grad_rows.
  void* grad_candidates = nullptr;
  void* row_scalars = nullptr;  // [3, B] what rows add to the gradients by temperature, margin and t.
  int32_t* ranks = nullptr;     // [B]

  // Workspace, by candidate. `padded` stands for num_panels * panel_width.
  void* panels = nullptr;      // [num_panels, panel_width * D] candidates, transposed tile by tile; pairs of dimensions
                               // where there are pairs.
  const void* rows = nullptr;  // [C, row_stride], or the candidates themselves where they are fit for it.
  int64_t row_stride = 0;
  bool copies_rows = true;    // Rows are written by the first pass.
  void* inverse = nullptr;    // [padded] 1 / norm, negative where it was clipped; only with normalize.
  void* offsets = nullptr;    // [padded] -log q; -inf for masked ones, and behind the end.
  void* neg_log_q = nullptr;  // [padded] -log q, or null for 0.
  void* grad_rows = nullptr;  // [padded, grad_stride], or [C, D] where that is grad_candidates itself.
  int64_t grad_stride = 0;

  // Whether all numbers of a panel's candidates, and of a block's queries, are finite: where not, products pass over
  // what a coefficient of 0 takes out.
  uint8_t* panel_is_finite = nullptr;  // [num_panels]
  uint8_t* block_is_finite = nullptr;  // [num_blocks]

  InBatchPairs pairs;

  // Slots, one per block of a round.
  void* exponentials = nullptr;   // [num_panels, block_rows, panel_width], or one panel.
  void* block_inputs = nullptr;   // [block_rows, dim_stride]: over the temperature; scaled once the block is done.
  void* block_grads = nullptr;    // [block_rows, dim_stride]
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
