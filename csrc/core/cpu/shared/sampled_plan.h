// What one call of sampled_softmax_loss works on: candidates are rows of a table, and so are the positives, which stand
// apart from them.
#ifndef FASTNEG_CORE_CPU_SHARED_SAMPLED_PLAN_H_
#define FASTNEG_CORE_CPU_SHARED_SAMPLED_PLAN_H_

#include "core/cpu/shared/plan.h"

namespace fastneg::cpu {

struct SampledPlan : SharedPlan {
  int64_t num_true = 0;        // Positives of a row.
  int64_t num_table_rows = 0;  // U
  int64_t scatter_rows = 0;    // Rows of the table that one task of the last phase finishes.

  const void* table = nullptr;  // [U, table_stride]
  int64_t table_stride = 0;
  const void* biases = nullptr;           // [U] or null.
  const int32_t* label_rows = nullptr;    // [B, num_true]
  const int32_t* sampled_rows = nullptr;  // [C]
  const void* true_expected_count = nullptr;
  const void* sampled_expected_count = nullptr;
  const void* row_weights = nullptr;  // [B] upstream gradients, or null for 1.

  // Results; null where not wanted.
  void* loss = nullptr;         // [B]
  void* grad_table = nullptr;   // [U, D]
  void* grad_biases = nullptr;  // [U]

  // Workspace.
  int32_t* last_sampled = nullptr;      // [U] last candidate that is the row, or -1; null: accidental hits stay.
  int32_t* occurrences = nullptr;       // Labels (i num_true + t) and candidates (B num_true + s) by the row they are.
  int32_t* first_occurrence = nullptr;  // [U + 1]
  void* true_coefficients = nullptr;    // [B, num_true] d loss / d logit of the positives.
  void* grad_offsets = nullptr;         // [padded]; only with grad_biases.

  // Slots.
  void* block_true = nullptr;          // [num_true, block_rows] logits of the positives.
  void* block_scales = nullptr;        // [block_rows] row weight / sum of exponentials.
  int32_t* block_first_hit = nullptr;  // [num_panels]; only with last_sampled, as the next.
  int32_t* block_next_hit = nullptr;   // [block_rows, num_true]
};

}  // namespace fastneg::cpu

#endif  // FASTNEG_CORE_CPU_SHARED_SAMPLED_PLAN_H_
