// The logistic loss of one pair: the mathematics, for scalars and vectors, host and device.
//
// With u = margin - (x_i - x_j) / temperature the pair (i, j) costs softplus(u) = log(1 + e^u), whose slope is
// sigmoid(u) = 1 / (1 + e^-u). Both are built from e^-|u| <= 1, so that nothing overflows and small values keep all
// their digits. Paper: Burges et al., "Learning to Rank using Gradient Descent", ICML 2005.
#ifndef FASTNEG_CORE_LOSSES_PAIRWISE_LOGISTIC_H_
#define FASTNEG_CORE_LOSSES_PAIRWISE_LOGISTIC_H_

#if defined(__CUDACC__)
#define FASTNEG_PAIR_INLINE __host__ __device__ __forceinline__
#else
#define FASTNEG_PAIR_INLINE inline __attribute__((always_inline))
#endif

namespace fastneg {

template <typename V>
FASTNEG_PAIR_INLINE V MinusMagnitude(V u) {  // NaN stays NaN.
  return u > 0 ? -u : u;
}

// softplus(u), given log(1 + e^-|u|).
template <typename V>
FASTNEG_PAIR_INLINE V Softplus(V u, V log1p_exp) {
  return (u > 0 ? u : V{}) + log1p_exp;
}

// sigmoid(u), given e^-|u|.
template <typename V>
FASTNEG_PAIR_INLINE V Sigmoid(V u, V exp) {
  const V one = exp * 0 + 1;
  return (u > 0 ? one : exp) / (exp + 1);
}

}  // namespace fastneg

#undef FASTNEG_PAIR_INLINE

#endif  // FASTNEG_CORE_LOSSES_PAIRWISE_LOGISTIC_H_
