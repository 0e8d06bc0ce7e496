// What one call of a gathered loss works on: sizes, parameters and where its workspace arrays lie.
//
// Plain data, the same for every instruction set. void pointers hold the compute type (float or double).
#ifndef FASTNEG_CORE_CPU_GATHERED_PLAN_H_
#define FASTNEG_CORE_CPU_GATHERED_PLAN_H_

#include <cstdint>

#include "core/api.h"

namespace fastneg::cpu {

// Rows that one task handles at most.
constexpr int64_t kMaxTileRows = 1024;

// A block of rows: its losses are added before anything else is. Tiles are whole blocks, so that their cut does not
// show.
constexpr int64_t kSumRows = 64;

// Candidates that rows meet before they meet the next ones. Each is a stream of rows, read one after the other: more
// streams at a time would load and store sums less often, but the processors' prefetchers lose track of them (measured
// where rows come from the third-level cache: 32 take up to a fifth longer).
constexpr int64_t kStreams = 16;

struct GatheredPlan {
  int64_t batch_size = 0;      // B
  int64_t embedding_dim = 0;   // D
  int64_t num_candidates = 0;  // K
  int64_t row_stride = 0;      // Of prepared rows: D rounded up to whole 64-byte lines.
  int64_t exp_stride = 0;      // Of exp_weights: B rounded up likewise.
  int64_t tile_rows = 0;
  int64_t num_tiles = 0;
  int64_t num_prepare_tasks = 0;
  int64_t num_blocks = 0;  // B / kSumRows, rounded up.

  DType dtype = DType::kFloat32;
  const void* user_emb = nullptr;
  const void* item_emb = nullptr;
  int64_t user_row_stride = 0;
  int64_t item_row_stride = 0;
  bool normalise = true;

  // Rolled candidates.
  const int64_t* shifts = nullptr;  // [K], sorted, in 1 .. B-1.

  // Shuffled candidates. Element B of an inverse is -1, or tells where its permutation goes wrong.
  const void* given_permutations = nullptr;
  void (*prepare_permutation)(const GatheredPlan& plan, int64_t k) = nullptr;
  int64_t permutation_stride = 0;
  int32_t* permutations = nullptr;  // [K, permutation_stride]; null where candidates are rolled.
  int32_t* inverses = nullptr;      // [K, permutation_stride]

  const uint8_t* active = nullptr;  // [B]: rows that take part.
  const void* weights = nullptr;    // [B] or null.
  const int64_t* candidate_ids = nullptr;
  const void* sampling_probability = nullptr;
  double gamma = 1.0;
  double margin = 0.0;
  double t = 1.0;
  bool refined = false;
  bool positive_in_softmax = true;
  double negative_weight = 1.0;
  bool sparse = false;            // So few rows are active that the item pass looks for pairs to leave out.
  double inverse_count = 0.0;     // 1 / number of rows with a weight, 0 where there is none.
  double max_neg_log_prob = 0.0;  // The largest -log q of the batch, and the smallest; 0 without correction.
  double min_neg_log_prob = 0.0;

  // Results; null where not wanted. grad_user and grad_item come together.
  void* grad_user = nullptr;
  void* grad_item = nullptr;
  void* grad_weights = nullptr;
  bool want_scalars = false;

  // Workspace. After the row pass `user` holds rows scaled by d loss / d sum, so that the item pass can use raw
  // exponentials.
  void* user = nullptr;          // [B, row_stride] prepared rows.
  void* item = nullptr;          // [B, row_stride]
  void* item_inverse = nullptr;  // [B] 1 / norm; negative where the norm was clipped (no projection then).
  // [B] d sum / d score of the positive: minus the sum of the negatives' exponentials.
  void* positive_weights = nullptr;
  void* neg_log_prob = nullptr;  // [B] -log q, or null.
  void* exp_weights = nullptr;   // [K, exp_stride] d sum / d score of every negative, or null.
  void* block_norms = nullptr;   // [num_blocks] largest norm of item rows; only where not normalised.
  // [num_blocks]: an item row holds NaN, or numbers whose squares overflow; only with candidate_ids.
  uint8_t* block_spoilt = nullptr;
  double* block_sums = nullptr;  // [num_blocks, 4] loss, d gamma, d margin, d t.

  bool is_shuffled() const { return permutations != nullptr; }
};

// The first of the shuffled candidates' permutations that is none; K if all are, and for rolled candidates.
inline __attribute__((always_inline)) int64_t FirstInvalidPermutation(const GatheredPlan& plan) {
  if (!plan.is_shuffled()) return plan.num_candidates;
  int64_t k = 0;
  while (k < plan.num_candidates && plan.inverses[k * plan.permutation_stride + plan.batch_size] < 0) ++k;
  return k;
}

}  // namespace fastneg::cpu

#endif  // FASTNEG_CORE_CPU_GATHERED_PLAN_H_
