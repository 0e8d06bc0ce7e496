// What a row of the gathered losses makes of the sum over its negatives.
#ifndef FASTNEG_CORE_CPU_GATHERED_ROW_LOSSES_H_
#define FASTNEG_CORE_CPU_GATHERED_ROW_LOSSES_H_

#include "core/cpu/gathered/plan.h"
#include "core/cpu/simd/simd_math.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

// Losses of kLanes rows, and what they weigh: a negative with the exponential e has the slope factor * e / total, the
// positive -factor * positive / total.
template <typename T>
struct RowLosses {
  T loss[kLanes<T>];
  T positive[kLanes<T>];
  T total[kLanes<T>];
  T factor[kLanes<T>];
};

// `negatives` is the sum of the negatives' exponentials, `below` the positive's logit, both relative to the reference.
template <typename T>
FASTNEG_INLINE void LossesWithPositive(Vec<T> negatives, Vec<T> below, RowLosses<T>* rows) {
  // log(e_0 + S) - l_0 = log1p(S / e_0), or the first form where S / e_0 may overflow. e_0 may be 0 there.
  const Vec<T> e0 = Exp<T>(below);
  const Vec<T> ratio = negatives / e0;
  Store(rows->loss, ratio < T(1e30) ? Log1p<T>(ratio) : Log<T>(negatives + e0) - below);
  Store(rows->positive, negatives);
  Store(rows->total, negatives + e0);
  Store(rows->factor, Broadcast(T(1)));
}

// What is added to all logits of a row's negatives, and how many of them there are: for the refined correction.
template <typename T>
struct RefinedTerms {
  Vec<T> correction = Zero<T>();
  Vec<T> num_negatives = Zero<T>();
};

// Whether quotients by negative_weight could overflow: then the negatives' exponentials have to be multiplied by
// negative_weight / S before they are used.
FASTNEG_INLINE bool ShrinksNegatives(const GatheredPlan& plan) {
  return plan.negative_weight > -1e-6 && plan.negative_weight < 1e-6;
}

// A row without negatives has loss 0, and slopes of 0 by a total of infinity.
template <typename T>
FASTNEG_INLINE void LossesWithoutPositive(const GatheredPlan& plan, Vec<T> negatives, Vec<T> below, Vec<T> reference,
                                          const RefinedTerms<T>& refined, RowLosses<T>* rows) {
  const T weight = static_cast<T>(plan.negative_weight);
  const Vec<T> log_sum = Log<T>(negatives) + refined.correction;
  Vec<T> loss = weight * log_sum + (weight - T(1)) * reference - below;
  Vec<T> factor = Broadcast(T(1));
  if (plan.refined) {
    const Vec<T> gap = below - (log_sum - Log<T>(refined.num_negatives));
    const Vec<T> highest = Broadcast<T>(MathConstants<T>::kExpHighest);
    factor = T(1) / (T(1) + Exp<T>(gap > highest ? highest : gap));
    loss *= factor;
  }
  const Vec<T> sum = ShrinksNegatives(plan) ? Broadcast(T(1)) : negatives / weight;
  const Mask<T> none = negatives == T(0);
  Store(rows->loss, none ? Zero<T>() : loss);
  Store(rows->positive, none ? Zero<T>() : sum);
  Store(rows->total, none ? Broadcast(T(__builtin_huge_val())) : sum);
  Store(rows->factor, factor);
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_GATHERED_ROW_LOSSES_H_
