// The end of a row: from what its logits add up to, to its loss.
#ifndef FASTNEG_CORE_CUDA_COMMON_SOFTMAX_ROW_CUH_
#define FASTNEG_CORE_CUDA_COMMON_SOFTMAX_ROW_CUH_

#include "core/cuda/common/math.cuh"

namespace fastneg::cuda {

// log(e_0 + S) - l_0 for the positive's logit l_0 = `below` and exponential e_0 and the sum S of the negatives'
// exponentials: log1p(S / e_0), which keeps the digits of a small loss, or the first form where S / e_0 may overflow
// (e_0 may be 0 there).
template <typename T>
__device__ __forceinline__ T RowLoss(T below, T own, T negatives) {
  const T ratio = negatives / own;
  return ratio < T(1e30) ? Log1p(ratio) : Log(negatives + own) - below;
}

}  // namespace fastneg::cuda

#endif  // FASTNEG_CORE_CUDA_COMMON_SOFTMAX_ROW_CUH_
