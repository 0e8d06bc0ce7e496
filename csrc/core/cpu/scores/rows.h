// A few rows of the softmax over given scores, one in each lane of a vector: from their sums to losses and gradients.
#ifndef FASTNEG_CORE_CPU_SCORES_ROWS_H_
#define FASTNEG_CORE_CPU_SCORES_ROWS_H_

#include "core/cpu/scores/plan.h"
#include "core/cpu/simd/convert.h"
#include "core/cpu/simd/simd_math.h"
#include "core/losses/sv_softmax.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

constexpr double kLog2E = 1.44269504088896340736;

// How far above its reference, as a power of 2, a row's largest exponential may be.
constexpr int kExponentsAboveReference = 20;

// The parameters of all rows.
template <typename T>
struct ScoredParams {
  SvSoftmaxParams<T> sv;
  T threshold;
  T exponent_scale;  // gamma / ln 2: exponentials are powers of 2.
  // Whether the largest negative, re-weighted, or the positive has the row's largest logit, or one close to that: hard
  // scores grow with the negatives and no easy one is far above the positive.
  bool largest_decides;

  explicit ScoredParams(const SvSoftmaxPlan& plan)
      : sv{T(plan.smooth), T(plan.margin), T(plan.t)},
        threshold(T(plan.threshold)),
        exponent_scale(T(plan.smooth * kLog2E)),
        largest_decides(plan.t >= 0 && plan.smooth >= 0 &&
                        -plan.threshold * plan.smooth * kLog2E <= kExponentsAboveReference) {}
};

// What the negatives of kLanes rows add up to, relative to a reference r among (or close to) the scores of largest
// logit: e_k = exp(smooth (s_k - r)). Differences of scores lose less than those of logits do.
template <typename T>
struct RowSums {
  Vec<T> positive;   // p: score, less margin.
  Vec<T> reference;  // r: no logit is below the positive's.
  Vec<T> negatives;  // sum e_k
  Vec<T> leads{};    // sum e_k (s_k - r)
  Vec<T> hard{};     // sum over hard negatives of e_k (c_k + 1)
};

// As many float64 numbers as a vector of T has lanes.
template <typename T>
struct DoublesOf;
template <>
struct DoublesOf<float> {
  typedef double Type __attribute__((vector_size(2 * kVectorBytes)));
};
template <>
struct DoublesOf<double> {
  typedef double Type __attribute__((vector_size(kVectorBytes)));
};

// Sums of one block, in float64 whatever the rows are computed in.
template <typename T>
class BlockSums {
 public:
  FASTNEG_INLINE void Add(int which, Vec<T> coefficients, Vec<T> values) {
    const Doubles left = __builtin_convertvector(coefficients, Doubles);
    const Doubles right = __builtin_convertvector(values, Doubles);
    sums_[which] += left * right;
  }

  FASTNEG_NOINLINE void Store(double scale, double* out) const {
    for (int s = 0; s < 4; ++s) {
      double sum = 0;
      for (int l = 0; l < kLanes<T>; ++l) sum += sums_[s][l];
      out[s] = scale * sum;
    }
  }

 private:
  using Doubles = typename DoublesOf<T>::Type;

  Doubles sums_[4] = {};
};

// What grad_pos and grad_neg are stored in.
template <typename T>
FASTNEG_INLINE DType GradType(const SvSoftmaxPlan& plan) {
  return plan.narrow_grads ? plan.dtype : sizeof(T) == 8 ? DType::kFloat64 : DType::kFloat32;
}

// The first `count` lanes as elements first .. first + count - 1 of `to`, which is of `dtype`.
template <typename T>
FASTNEG_INLINE void StoreAs(DType dtype, void* to, int64_t first, Vec<T> v, int64_t count) {
  if constexpr (sizeof(T) == 4) {
    if (dtype == DType::kFloat16) return StoreNarrowed<T>(static_cast<Float16*>(to) + first, v, count);
    if (dtype == DType::kBFloat16) return StoreNarrowed<T>(static_cast<BFloat16*>(to) + first, v, count);
  }
  StoreValid(static_cast<T*>(to) + first, v, count);
}

// From sums to results.
template <typename T>
class RowFinish {
 public:
  explicit RowFinish(const SvSoftmaxPlan& plan)
      : smooth_(T(plan.smooth)),
        exponent_scale_(T(plan.smooth * kLog2E)),
        inverse_count_(T(plan.inverse_count)),
        factor_(T(plan.inverse_count * plan.smooth)),
        weights_(static_cast<const T*>(plan.weights)),
        grad_dtype_(GradType<T>(plan)),
        grad_pos_(plan.grad_pos),
        grad_weights_(static_cast<T*>(plan.grad_weights)),
        want_scalars_(plan.want_scalars) {}

  // Whether row i is read at all: one of weight 0 has a loss to tell its weight, and nothing else.
  FASTNEG_INLINE bool IsRead(int64_t i) const {
    return Counts(i) || (grad_weights_ != nullptr && inverse_count_ != T(0));
  }
  // Whether row i is part of the loss and has gradients.
  FASTNEG_INLINE bool Counts(int64_t i) const { return weights_ == nullptr || weights_[i] != T(0); }

  // Rows first .. first + count - 1, count <= kLanes. Returns what a negative's e_k (t e_k where hard) has to be
  // multiplied with to become its gradient; 0 for rows that do not count.
  FASTNEG_INLINE Vec<T> Finish(int64_t first, int64_t count, const RowSums<T>& rows, BlockSums<T>* block) const {
    const Vec<T> zero = Zero<T>();
    const Vec<T> behind = rows.reference - rows.positive;
    const Vec<T> own = Exp2<T>(exponent_scale_ * -behind);  // 1, or the row has a negative of at least 1.
    const Vec<T> total = rows.negatives + own;
    const Vec<T> inverse = T(1) / total;
    // The logarithm of the sum before it was rounded.
    const Vec<T> loss = smooth_ * behind + (Log<T>(total) + (rows.negatives - (total - own)) * inverse);
    Vec<T> weight = zero;  // Stays 0 behind the last row.
    if (weights_ != nullptr) {
      weight = LoadValid(weights_ + first, count);
    } else {
      for (int l = 0; l < kLanes<T>; ++l) weight[l] = l < count ? T(1) : T(0);
    }
    const auto counts = weight != zero;
    block->Add(0, weight, counts ? loss : zero);
    if (grad_weights_ != nullptr) {
      StoreValid(grad_weights_ + first, inverse_count_ == T(0) ? zero : loss * inverse_count_, count);
    }
    if (grad_pos_ == nullptr) return zero;
    const Vec<T> scale = counts ? weight * factor_ * inverse : zero;
    StoreAs<T>(grad_dtype_, grad_pos_, first, counts ? -(rows.negatives * scale) : zero, count);
    if (want_scalars_) {
      block->Add(1, weight, counts ? (rows.leads + rows.negatives * behind) * inverse : zero);
      block->Add(2, weight, counts ? rows.negatives * inverse * smooth_ : zero);
      block->Add(3, weight, counts ? rows.hard * inverse * smooth_ : zero);
    }
    return scale;
  }

  // The same, for callers that are not worth a copy of all that code.
  FASTNEG_NOINLINE Vec<T> CallFinish(int64_t first, int64_t count, const RowSums<T>& rows, BlockSums<T>* block) const {
    return Finish(first, count, rows, block);
  }

 private:
  const T smooth_, exponent_scale_, inverse_count_, factor_;
  const T* const weights_;
  const DType grad_dtype_;
  void* const grad_pos_;
  T* const grad_weights_;
  const bool want_scalars_;
};

// A vector of negatives, re-weighted against their rows' positives.
template <typename T>
struct Reweighted {
  Vec<T> score;
  Mask<T> hard;
};

template <typename T>
FASTNEG_INLINE Reweighted<T> Reweight(Vec<T> positive, Vec<T> negative, const ScoredParams<T>& params) {
  const Mask<T> hard = IsHard<Vec<T>, T>(positive, negative, params.threshold);
  return {hard ? HardScore(negative, params.sv) : negative, hard};
}

template <typename T>
FASTNEG_INLINE Vec<T> MinusInfinity() {
  return Broadcast<T>(-T(__builtin_huge_val()));
}

// A lead as a factor of its exponential: of a score of -inf, which stands for no negative, the product has to be 0.
// (Such a score is never hard, so that the sums of hard scores need no care.)
template <typename T>
FASTNEG_INLINE Vec<T> FiniteLead(Vec<T> lead) {
  constexpr T kLowest = sizeof(T) == 4 ? T(-__FLT_MAX__) : T(-__DBL_MAX__);
  return Max<T>(Broadcast(kLowest), lead);
}

// The greater of each pair, `b` where `a` is NaN: a NaN shows in the sums, and need not here.
template <typename T>
FASTNEG_INLINE Vec<T> Greater(Vec<T> a, Vec<T> b) {
  return a > b ? a : b;
}

template <typename T, typename Storage>
FASTNEG_INLINE void WidenElements(const Storage* from, int64_t size, T* out) {
  ForChunks<T>(size, [&](int64_t e, int64_t valid)
                         FASTNEG_LAMBDA_INLINE { StoreValid(out + e, LoadWidened<T>(from + e, valid), valid); });
}

// Copies `size` elements of `dtype`, from element `first` on, and sets those from there to `padded_size` to 0.
template <typename T>
FASTNEG_NOINLINE void WidenRange(DType dtype, const void* from, int64_t first, int64_t size, int64_t padded_size,
                                 T* out) {
  if constexpr (sizeof(T) == 8) {
    WidenElements<T>(static_cast<const double*>(from) + first, size, out);
  } else if (dtype == DType::kFloat16) {
    WidenElements<T>(static_cast<const Float16*>(from) + first, size, out);
  } else if (dtype == DType::kBFloat16) {
    WidenElements<T>(static_cast<const BFloat16*>(from) + first, size, out);
  } else {
    WidenElements<T>(static_cast<const float*>(from) + first, size, out);
  }
  for (int64_t e = size; e < padded_size; ++e) out[e] = 0;
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SCORES_ROWS_H_
