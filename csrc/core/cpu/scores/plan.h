// What one call of the softmax over given scores works on.
//
// Plain data, the same for every instruction set. void pointers hold the compute type (float or double) unless said
// otherwise.
#ifndef FASTNEG_CORE_CPU_SCORES_PLAN_H_
#define FASTNEG_CORE_CPU_SCORES_PLAN_H_

#include <cstdint>

#include "core/api.h"

namespace fastneg::cpu {

struct SvSoftmaxPlan {
  int64_t num_rows = 0;       // P
  int64_t num_negatives = 0;  // K
  // A block of rows is a task's unit, and its losses are added before anything else is. A task takes whole blocks, so
  // that the cut into tasks does not show.
  int64_t block_rows = 0;
  int64_t num_blocks = 0;
  int64_t task_blocks = 0;

  DType dtype = DType::kFloat32;
  const void* pos_score = nullptr;   // [P] of dtype
  const void* neg_scores = nullptr;  // [P, K] of dtype
  const void* weights = nullptr;     // [P] or null.
  double margin = 0.0;
  double t = 1.0;
  double smooth = 1.0;
  double threshold = 0.0;
  double inverse_count = 0.0;  // 1 / number of rows with a weight, 0 where there is none.

  // Results; null where not wanted. grad_pos and grad_neg come together; narrow_grads: they are of dtype.
  bool narrow_grads = false;
  void* grad_pos = nullptr;
  void* grad_neg = nullptr;  // May be neg_scores.
  void* grad_weights = nullptr;
  bool want_scalars = false;

  double* block_sums = nullptr;  // [num_blocks, 4] loss, d smooth, d margin, d t. Workspace.
};

}  // namespace fastneg::cpu

#endif  // FASTNEG_CORE_CPU_SCORES_PLAN_H_
