// A few rows of the softmax over given scores, one in each lane of a vector: from their sums to losses and gradients.
#ifndef FASTNEG_CORE_CPU_SV_SOFTMAX_ROWS_H_
#define FASTNEG_CORE_CPU_SV_SOFTMAX_ROWS_H_

#include "core/cpu/convert.h"
#include "core/cpu/simd_math.h"
#include "core/cpu/sv_softmax_plan.h"
#include "core/losses/sv_softmax.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

// What a call wants. Scalars: of smooth, margin and t.
enum class SvSoftmaxWants { kLoss, kGrads, kGradsAndScalars };

constexpr double kLog2E = 1.44269504088896340736;
constexpr double kLn2 = 0.693147180559945309417;

// Exponents of 2 above which a row's exponentials are taken relative to the largest one.
constexpr int kHighestExponent = 58;  // kExponentsAbove / ln 2

// The parameters of all rows.
template <typename T>
struct ScoredParams {
  SvSoftmaxParams<T> sv;
  T threshold;
  T exponent_scale;  // gamma / ln 2: exponentials are powers of 2.

  explicit ScoredParams(const SvSoftmaxPlan& plan)
      : sv{T(plan.smooth), T(plan.margin), T(plan.t)},
        threshold(T(plan.threshold)),
        exponent_scale(T(plan.smooth * kLog2E)) {}
};

// What the negatives of kLanes rows add up to. Exponents are relative to the positive's: e_k = 2^(exponent_k - shift) =
// exp(logit_k - logit_0 - shift ln 2). The positive's logit bounds the row's largest one from below, so a shift of 0 is
// right unless a negative is far above; then it is the largest exponent.
template <typename T>
struct RowSums {
  Vec<T> positive;   // Score, less margin.
  Vec<T> shift;      // 0, or more than kHighestExponent.
  Vec<T> negatives;  // sum e_k
  Vec<T> scores;     // sum e_k (s_k - p)
  Vec<T> hard;       // sum over hard negatives of e_k (c_k + 1)
};

// Multiplies a negative's e_k, t e_k where hard, on its way to its gradient: first `inverse`, then `factor`. Their
// product alone could leave the range of numbers.
template <typename T>
struct GradFactors {
  Vec<T> inverse;  // 1 / sum of all exponentials
  Vec<T> factor;   // weight / number of rows * smooth
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

  FASTNEG_INLINE void Store(double scale, double* out) const {
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

// From sums to results.
template <typename T, SvSoftmaxWants kWants>
class RowFinish {
 public:
  static constexpr bool kGrads = kWants != SvSoftmaxWants::kLoss;
  static constexpr bool kScalars = kWants == SvSoftmaxWants::kGradsAndScalars;

  explicit RowFinish(const SvSoftmaxPlan& plan)
      : smooth_(T(plan.smooth)),
        inverse_count_(T(plan.inverse_count)),
        factor_(T(plan.inverse_count * plan.smooth)),
        weights_(static_cast<const T*>(plan.weights)),
        grad_pos_(static_cast<T*>(plan.grad_pos)),
        grad_weights_(static_cast<T*>(plan.grad_weights)) {}

  bool all_count() const { return weights_ == nullptr; }
  // Whether row i is read at all: one of weight 0 has a loss to tell its weight, and nothing else.
  FASTNEG_INLINE bool IsRead(int64_t i) const {
    return Counts(i) || (grad_weights_ != nullptr && inverse_count_ != T(0));
  }
  // Whether row i is part of the loss and has gradients.
  FASTNEG_INLINE bool Counts(int64_t i) const { return weights_ == nullptr || weights_[i] != T(0); }

  // Rows first .. first + count - 1, count <= kLanes.
  FASTNEG_INLINE GradFactors<T> Finish(int64_t first, int64_t count, const RowSums<T>& rows,
                                       BlockSums<T>* block) const {
    const Vec<T> zero = Zero<T>();
    // 0, or NaN where the positive's logit is not finite.
    const Vec<T> own_logit = smooth_ * rows.positive;
    const Vec<T> check = own_logit - own_logit;
    Vec<T> total = rows.negatives + (check + T(1));
    Vec<T> inverse = T(1) / total;
    // log(1 + negatives), with what rounding the sum dropped.
    Vec<T> loss = Log<T>(total) + (rows.negatives - (total - T(1))) * inverse;
    if (__builtin_expect(Any<T>(rows.shift != zero), 0)) {
      const Vec<T> shifted = rows.negatives + Exp2<T>(-rows.shift) + check;
      total = rows.shift != zero ? shifted : total;
      inverse = T(1) / total;
      loss = rows.shift != zero ? rows.shift * T(kLn2) + Log<T>(shifted) : loss;
    }
    Vec<T> weight = Zero<T>();  // Stays 0 behind the last row.
    if (weights_ != nullptr) {
      weight = LoadValid(weights_ + first, count);
    } else {
      for (int l = 0; l < kLanes<T>; ++l) weight[l] = l < count ? T(1) : T(0);
    }
    const auto counts = weight != zero;
    const Vec<T> factor = weight * factor_;
    block->Add(0, weight, counts ? loss : zero);
    if (grad_weights_ != nullptr) {
      StoreValid(grad_weights_ + first, inverse_count_ == T(0) ? zero : loss * inverse_count_, count);
    }
    if constexpr (kGrads) {
      const Vec<T> share = rows.negatives * inverse;
      if (grad_pos_ != nullptr) StoreValid(grad_pos_ + first, counts ? -(share * factor) : zero, count);
      if constexpr (kScalars) {
        block->Add(1, weight, counts ? rows.scores * inverse : zero);
        block->Add(2, weight, counts ? share * smooth_ : zero);
        block->Add(3, weight, counts ? rows.hard * inverse * smooth_ : zero);
      }
    }
    return {inverse, factor};
  }

 private:
  const T smooth_, inverse_count_, factor_;
  const T* const weights_;
  T* const grad_pos_;
  T* const grad_weights_;
};

// A vector of negatives against its rows' positives.
template <typename T>
struct Contest {
  Vec<T> negative;  // Score as given.
  Vec<T> lead;      // Re-weighted score, less the positive's.
  Vec<T> exponent;
  Mask<T> hard;
};

template <typename T>
FASTNEG_INLINE Contest<T> Compete(Vec<T> positive, Vec<T> negative, const ScoredParams<T>& params) {
  Contest<T> contest;
  contest.negative = negative;
  contest.hard = IsHard<Vec<T>, T>(positive, negative, params.threshold);
  contest.lead = (contest.hard ? HardScore(negative, params.sv) : negative) - positive;
  contest.exponent = params.exponent_scale * contest.lead;
  return contest;
}

template <typename T>
FASTNEG_INLINE Vec<T> NoExponent() {
  return Broadcast<T>(-T(__builtin_huge_val()));
}

// Exponents less a shift that is no less than any of them.
template <typename T>
FASTNEG_INLINE Vec<T> Shifted(Vec<T> exponent, Vec<T> shift) {
  DoNotFuse(exponent);  // Else the largest one would not cancel, by as much as it was rounded.
  const Vec<T> shifted = exponent - shift;
  return shifted > Zero<T>() ? Zero<T>() : shifted;
}

template <typename T, typename Storage>
FASTNEG_INLINE void WidenElements(const Storage* from, int64_t size, T* out) {
  ForChunks<T>(size, [&](int64_t e, int64_t valid)
                         FASTNEG_LAMBDA_INLINE { StoreValid(out + e, LoadWidened<T>(from + e, valid), valid); });
}

// Copies `size` elements of `dtype`, from element `first` on, and sets those from there to `padded_size` to 0.
template <typename T>
__attribute__((noinline)) void WidenRange(DType dtype, const void* from, int64_t first, int64_t size,
                                          int64_t padded_size, T* out) {
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

#endif  // FASTNEG_CORE_CPU_SV_SOFTMAX_ROWS_H_
