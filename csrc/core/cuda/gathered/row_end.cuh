// The end of a row of the gathered losses: from what its negatives' exponentials add up to, to its loss and to what
// they weigh in it.
#ifndef FASTNEG_CORE_CUDA_GATHERED_ROW_END_CUH_
#define FASTNEG_CORE_CUDA_GATHERED_ROW_END_CUH_

#include "core/cuda/common/math.cuh"
#include "core/cuda/common/softmax_row.cuh"

namespace fastneg::cuda {

// A negative with the exponential e has the slope factor * share * e / total, the positive -factor * positive / total.
template <typename T>
struct RowEnd {
  T loss;
  T positive;
  T total;
  T factor;
  T share;
};

// A lower bound of logits, to start from where nothing else is known of them.
template <typename T>
constexpr T kLowestReference = T(-1e38);
template <>
constexpr double kLowestReference<double> = -1e308;

// With S the sum of the negatives' exponentials, `below` the positive's logit, both relative to the reference.
template <typename T>
__device__ __forceinline__ RowEnd<T> EndWithPositive(T negatives, T below) {
  const T own = Exp(below);
  return {RowLoss(below, own, negatives), negatives, negatives + own, T(1), T(1)};
}

// A row of the decoupled losses: negative_weight (log S + reference) - l_0; 0, with slopes of 0, without negatives.
template <typename T>
__device__ __forceinline__ RowEnd<T> EndWithoutPositive(T negatives, T below, T reference, T negative_weight) {
  if (negatives == T(0)) return {T(0), T(0), T(1), T(0), T(0)};
  const T loss = negative_weight * Log(negatives) + (negative_weight - T(1)) * reference - below;
  return {loss, T(1), T(1), T(1), negative_weight / negatives};
}

// The refined correction adds `correction` to all logits of the row's `num_negatives` negatives, and multiplies the
// row's loss by a constant.
template <typename T>
__device__ __forceinline__ void Refine(T negatives, T below, T negative_weight, T correction, int num_negatives,
                                       RowEnd<T>* end) {
  if (negatives == T(0)) return;
  const T gap = below - (Log(negatives) + correction - Log(static_cast<T>(num_negatives)));
  constexpr T kHighest = sizeof(T) == 8 ? T(709) : T(88);
  end->factor = T(1) / (T(1) + Exp(gap > kHighest ? kHighest : gap));
  end->loss = (end->loss + negative_weight * correction) * end->factor;
}

}  // namespace fastneg::cuda

#endif  // FASTNEG_CORE_CUDA_GATHERED_ROW_END_CUH_
