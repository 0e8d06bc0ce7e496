// What one call of a shared-candidates loss works on: all rows score the same candidates.
//
// Plain data, the same for every instruction set. void pointers hold the compute type (float or double) unless a
// comment says otherwise.
//
// A block of rows meets the candidates panel by panel: logits, exponentials and what the inputs get of them follow one
// another in the first-level cache. The exponentials are kept in scratch, a few blocks at a time, so that the scores
// are computed once and nothing of size [B, S] exists. Blocks are worked on in rounds. In a round each row task fills a
// slot with its block's exponentials and finishes the rows' losses and input gradients; then each candidate task adds
// what all slots have for its candidates. So every sum has one owner, whatever the number of threads.
#ifndef FASTNEG_CORE_CPU_SHARED_PLAN_H_
#define FASTNEG_CORE_CPU_SHARED_PLAN_H_

#include <cstdint>

#include "core/api.h"

namespace fastneg::cpu {

// Rows of a block, a power of two. Whole vectors of every type.
constexpr int64_t kMaxBlockRows = 128;
constexpr int64_t kMinBlockRows = 16;

struct SharedPlan {
  int64_t batch_size = 0;     // B
  int64_t embedding_dim = 0;  // D
  int64_t num_true = 0;       // Positives of a row.
  int64_t num_sampled = 0;    // S
  int64_t num_rows = 0;       // U: distinct table rows.
  int64_t dim_stride = 0;     // Of prepared rows: D rounded up to whole 64-byte lines, or one more.

  int64_t panel_width = 0;  // Candidates that are scored side by side, from SharedKernels.
  int64_t num_panels = 0;
  int64_t block_rows = 0;  // Input rows whose contributions to a candidate are added before anything else is.
  int64_t num_blocks = 0;
  int64_t blocks_per_round = 0;  // As many slots; no result depends on it.
  int64_t scatter_rows = 0;      // Distinct rows that one task of the last phase finishes.

  DType dtype = DType::kFloat32;  // Of inputs and rows.
  const void* inputs = nullptr;   // [B, D]
  const void* rows = nullptr;     // [U, D]
  int64_t input_row_stride = 0;
  int64_t row_stride = 0;
  const void* biases = nullptr;           // [U] or null.
  const int32_t* label_rows = nullptr;    // [B, num_true]
  const int32_t* sampled_rows = nullptr;  // [S]
  const void* true_expected_count = nullptr;
  const void* sampled_expected_count = nullptr;
  const void* row_weights = nullptr;  // [B] upstream gradients, or null for 1.

  // Results; null where not wanted.
  void* loss = nullptr;         // [B]
  void* grad_inputs = nullptr;  // [B, D]
  void* grad_rows = nullptr;    // [U, D]
  void* grad_biases = nullptr;  // [U]

  // Workspace.
  int32_t* last_sampled = nullptr;      // [U] last candidate that is the row, or -1; null: accidental hits stay.
  int32_t* occurrences = nullptr;       // Labels (i num_true + t) and candidates (B num_true + s) by the row they are.
  int32_t* first_occurrence = nullptr;  // [U + 1]
  void* panels = nullptr;               // [num_panels, panel_width * D] candidates, transposed tile by tile.
  void* candidates = nullptr;           // [num_panels * panel_width, dim_stride]; only for gradients.
  void* offsets = nullptr;              // [num_panels * panel_width] bias - log expected count; -inf behind the end.
  void* true_coefficients = nullptr;    // [B, num_true] d loss / d logit of the positives.
  void* grad_candidates = nullptr;      // [num_panels * panel_width, dim_stride]
  void* grad_offsets = nullptr;         // [num_panels * panel_width]; only with grad_biases.

  // Slots, one per block of a round.
  void* exponentials = nullptr;        // [num_panels, block_rows, panel_width]
  void* block_inputs = nullptr;        // [block_rows, dim_stride]: scaled by 1 / sum once the block is done.
  void* block_grads = nullptr;         // [block_rows, dim_stride]; null where grad_inputs has whole lines to do it.
  void* block_true = nullptr;          // [num_true, block_rows] logits of the positives.
  void* block_scales = nullptr;        // [block_rows] row weight / sum of exponentials.
  void* block_maxima = nullptr;        // [block_rows]
  int32_t* block_first_hit = nullptr;  // [num_panels]; only with last_sampled, as the next.
  int32_t* block_next_hit = nullptr;   // [block_rows, num_true]
};

}  // namespace fastneg::cpu

#endif  // FASTNEG_CORE_CPU_SHARED_PLAN_H_
