// The support-vector-guided softmax over one row's scores: the mathematics, for scalars and vectors, host and device.
//
// V is a number or a vector of numbers, T the number type. Paper: Wang et al., "Support Vector Guided Softmax Loss for
// Face Recognition", arXiv 1812.11317.
#ifndef FASTNEG_CORE_LOSSES_SV_SOFTMAX_H_
#define FASTNEG_CORE_LOSSES_SV_SOFTMAX_H_

#if defined(__CUDACC__)
#define FASTNEG_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define FASTNEG_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace fastneg {

// The parameters of a row, in the type that the row is computed in.
template <typename T>
struct SvSoftmaxParams {
  T gamma;   // Scale of every logit.
  T margin;  // Subtracted from the positive score.
  T t;       // Hard negatives get the score t c + t - 1.
};

// A negative is hard when it beats the positive's score (margin subtracted). The choice is a constant for gradients.
template <typename V>
FASTNEG_HOST_DEVICE auto IsHard(V positive, V negative) {
  return positive - negative < 0;
}

// The same with a threshold other than 0: the larger, the more negatives are hard.
template <typename V, typename T>
FASTNEG_HOST_DEVICE auto IsHard(V positive, V negative, T threshold) {
  return positive - negative < threshold;
}

template <typename V, typename T>
FASTNEG_HOST_DEVICE V HardScore(V negative, const SvSoftmaxParams<T>& params) {
  return params.t * negative + (params.t - T(1));
}

// What a negative with the exponential e adds to a sum of e x. Where e is 0 that is nothing, whatever x is: a negative
// whose logit is -inf stands for none, in derivatives by the parameters too. A NaN stays one.
template <typename V>
FASTNEG_HOST_DEVICE V WeightedTerm(V e, V x) {
  const V none = {};
  return e == 0 ? none : e * x;
}

// The largest logit that scores in [-bound, bound] can give, before any logQ correction.
template <typename T>
FASTNEG_HOST_DEVICE T LogitBound(T bound, const SvSoftmaxParams<T>& params) {
  const T t_abs = params.t < 0 ? -params.t : params.t;
  const T hard_high = t_abs * bound + params.t - T(1);
  const T hard_low = -t_abs * bound + params.t - T(1);
  const T high = params.gamma * (hard_high > bound ? hard_high : bound);
  const T low = params.gamma * (hard_low < -bound ? hard_low : -bound);
  return high > low ? high : low;
}

// How far below and above its reference a row's exponents may reach, so that neither the sum nor its reciprocal leaves
// float32's normal range and every term within 1e-11 of the largest one is kept.
constexpr int kExponentsAbove = 40;
constexpr int kExponentsBelow = 60;

// A number to subtract from every logit of a row before exp, chosen from the positive's logit (a lower bound of the
// row's maximum) and an upper bound; NaN-safe. False: the bounds are too far apart, use the row's true maximum.
template <typename T>
FASTNEG_HOST_DEVICE bool ReferenceFromBounds(T positive_logit, T upper_bound, T* reference) {
  const T range = upper_bound - positive_logit;
  *reference = range > T(kExponentsAbove) ? upper_bound - T(kExponentsAbove) : positive_logit;
  return range <= T(kExponentsAbove + kExponentsBelow);
}

// The same where the positive's logit is not summed, and nothing but bounds is known: their middle, so that exponents
// are small where logits are.
template <typename T>
FASTNEG_HOST_DEVICE bool ReferenceBetween(T lower_bound, T upper_bound, T* reference) {
  const T range = upper_bound - lower_bound;
  *reference = range > T(2 * kExponentsAbove) ? upper_bound - T(kExponentsAbove) : lower_bound + range / 2;
  return range <= T(kExponentsAbove + kExponentsBelow);
}

}  // namespace fastneg

#endif  // FASTNEG_CORE_LOSSES_SV_SOFTMAX_H_
