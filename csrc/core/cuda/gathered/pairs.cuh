// Pairs of a user row and an item row: where the rows lie, and from their product to a logit. The row pass and the item
// pass compute a pair by the same operations in the same order, so that both take it for hard or both do not.
#ifndef FASTNEG_CORE_CUDA_GATHERED_PAIRS_CUH_
#define FASTNEG_CORE_CUDA_GATHERED_PAIRS_CUH_

#include "core/cuda/common/math.cuh"
#include "core/cuda/common/storage.cuh"
#include "core/cuda/gathered/plan.h"
#include "core/losses/sv_softmax.h"

namespace fastneg::cuda {

// The cosine of rows as they are given, from their product. A row with an inverse norm of 0 counts as a zero row.
// Rounded, so that whether a negative is hard does not depend on what a compiler makes of the comparison.
template <typename T>
__device__ __forceinline__ T Cosine(T product, T user_inverse, T item_inverse) {
  const T cosine = RoundedProduct(product * user_inverse, item_inverse);
  return user_inverse == T(0) || item_inverse == T(0) ? T(0) : cosine;
}

template <typename T>
struct ReweightedScore {
  T score;
  bool hard;
};

template <typename Element>
class Pairs {
 public:
  using T = Compute<Element>;

  explicit __device__ Pairs(const GatheredPlan& plan)
      : params{plan.gamma.Get<T>(), plan.margin.Get<T>(), plan.t.Get<T>()}, plan_(plan) {}

  __device__ __forceinline__ const Element* UserRow(int i) const {
    return static_cast<const Element*>(plan_.user_emb) + i * plan_.user_row_stride;
  }
  __device__ __forceinline__ const Element* ItemRow(int j) const {
    return static_cast<const Element*>(plan_.item_emb) + j * plan_.item_row_stride;
  }

  // 1 / norm, without the sign that tells where it was clipped.
  __device__ __forceinline__ T ItemInverse(int j) const {
    const T inverse = static_cast<const T*>(plan_.item_inverse)[j];
    return inverse < 0 ? -inverse : inverse;
  }

  // -log q of item j; 0 without correction.
  __device__ __forceinline__ T NegLogProb(int j) const {
    return plan_.neg_log_prob == nullptr ? T(0) : static_cast<const T*>(plan_.neg_log_prob)[j];
  }

  // Whether a negative has the id of its row.
  __device__ __forceinline__ bool IsHit(int i, int j) const {
    return plan_.candidate_ids != nullptr && plan_.candidate_ids[i] == plan_.candidate_ids[j];
  }

  __device__ __forceinline__ ReweightedScore<T> Reweight(T positive, T score) const {
    const bool hard = IsHard(positive, score);
    return {hard ? HardScore(score, params) : score, hard};
  }

  __device__ __forceinline__ T Logit(T reweighted, T neg_log_prob) const {
    return params.gamma * reweighted + neg_log_prob;
  }

  // A logit less its row's reference. References keep these below kExponentsAbove but for the rounding of huge logits.
  __device__ __forceinline__ T Exponent(T reweighted, T reference, T neg_log_prob) const {
    constexpr T kHighest = T(kExponentsAbove + 5);
    const T exponent = params.gamma * reweighted - reference + neg_log_prob;
    return exponent > kHighest ? kHighest : exponent;  // A NaN passes.
  }

  const SvSoftmaxParams<T> params;

 private:
  const GatheredPlan& plan_;
};

}  // namespace fastneg::cuda

#endif  // FASTNEG_CORE_CUDA_GATHERED_PAIRS_CUH_
