// What one call of a gathered loss works on: sizes, parameters and where its workspace arrays lie. Plain data, passed
// to every kernel by value. void pointers hold the compute type (float or double) unless said otherwise.
#ifndef FASTNEG_CORE_CUDA_GATHERED_PLAN_H_
#define FASTNEG_CORE_CUDA_GATHERED_PLAN_H_

#include <cstdint>

#include "core/api.h"
#include "core/cuda/common/blocks.h"
#include "core/cuda/common/scalar.cuh"

namespace fastneg::cuda {

// What the item pass has to know of a user row to form its pairs' gradients anew.
template <typename T>
struct alignas(4 * sizeof(T)) RowFacts {
  T inverse;    // 1 / norm
  T positive;   // The own pair's score, less margin.
  T reference;  // Subtracted from every logit.
  T scale;      // d loss / d score of a pair with logit `reference`; 0 for rows without gradients.
};

struct GatheredPlan {
  int batch_size = 0;      // B
  int embedding_dim = 0;   // D
  int num_candidates = 0;  // K

  const void* user_emb = nullptr;  // Of the storage type.
  const void* item_emb = nullptr;
  int64_t user_row_stride = 0;
  int64_t item_row_stride = 0;
  bool normalise = true;

  // Rolled candidates.
  const int64_t* given_shifts = nullptr;  // [K], as the caller has them.
  int* shifts = nullptr;                  // [K], in 1 .. B-1 and sorted.

  // Shuffled candidates.
  const void* permutations = nullptr;  // [K, B]
  bool permutations_are_64_bit = false;
  unsigned int* inverses = nullptr;  // [K, B]; all bits set before the first kernel.

  DType label_dtype = DType::kFloat32;
  const void* labels = nullptr;
  const void* weights = nullptr;
  const int64_t* candidate_ids = nullptr;
  const void* sampling_probability = nullptr;
  Scalar gamma;
  Scalar margin;
  Scalar t;
  bool refined = false;
  bool positive_in_softmax = true;
  Scalar negative_weight;

  // Results; null where not wanted. grad_user and grad_item come together.
  void* loss = nullptr;
  void* grad_user = nullptr;
  void* grad_item = nullptr;
  void* grad_weights = nullptr;
  void* grad_scalars = nullptr;
  int64_t* error_index = nullptr;

  // Workspace.
  Control* control = nullptr;
  uint8_t* active = nullptr;         // [B] rows that take part.
  void* user_inverse = nullptr;      // [B] 1 / norm; negative where the norm was clipped.
  void* item_inverse = nullptr;      // [B]
  void* neg_log_prob = nullptr;      // [B] -log q, or null.
  void* row_facts = nullptr;         // [B] RowFacts
  void* positive_weights = nullptr;  // [B] d loss / d score of the own pair.
  double* block_sums = nullptr;      // [blocks of the row pass, 4] loss, d gamma, d margin, d t.
};

}  // namespace fastneg::cuda

#endif  // FASTNEG_CORE_CUDA_GATHERED_PLAN_H_
