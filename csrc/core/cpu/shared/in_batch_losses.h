// What a row, or a column, of the in-batch loss makes of the sum over its negatives.
#ifndef FASTNEG_CORE_CPU_SHARED_IN_BATCH_LOSSES_H_
#define FASTNEG_CORE_CPU_SHARED_IN_BATCH_LOSSES_H_

#include "core/cpu/shared/in_batch_plan.h"
#include "core/cpu/simd/simd_math.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

template <typename T>
struct LossTerms {
  Vec<T> reference;     // What exponentials are relative to.
  Vec<T> own;           // Logit of the positive.
  Vec<T> correction;    // To be added to every negative's logit.
  Vec<T> exponentials;  // Their sum over the negatives.
  Vec<T> members;       // The number of negatives, and the sum of their logits; only where the plan counts.
  Vec<T> logits;
};

// A negative's gradient is (exponential * factor + share) * scale, the positive's is positive * scale.
template <typename T>
struct LossFactors {
  Vec<T> loss;
  Vec<T> scale;
  Vec<T> positive;
  Vec<T> factor;  // 1, and a share of 0, unless the plan transforms.
  Vec<T> share;
};

template <typename T>
FASTNEG_INLINE LossFactors<T> LossWithPositive(const InBatchPlan& plan, const LossTerms<T>& terms, Vec<T> weight) {
  const Vec<T> own = terms.own, others = terms.exponentials;
  const Vec<T> own_exponential = Exp<T>(own - terms.reference);
  const Vec<T> sum = own_exponential + others;
  // A small loss may not come from a difference, and a large one may not overflow.
  const Mask<T> divides = own_exponential > others * T(1e-6);
  const Vec<T> odds = others / (divides ? own_exponential : sum);
  const Vec<T> loss = divides ? Log1p<T>(odds) : Log<T>(sum) - (own - terms.reference);
  if (!plan.transforms) return {loss, weight / sum, -others, Broadcast(T(1)), Zero<T>()};
  const Vec<T> smoothing = static_cast<T>(plan.label_smoothing) / (terms.members + T(1));
  return {loss + smoothing * (terms.members * own - terms.logits), weight, smoothing * terms.members - others / sum,
          T(1) / sum, -smoothing};
}

template <typename T>
FASTNEG_INLINE LossFactors<T> LossWithoutPositive(const InBatchPlan& plan, const LossTerms<T>& terms, Vec<T> weight) {
  const T negative_weight = static_cast<T>(plan.negative_weight);
  const Vec<T> zero = Zero<T>(), others = terms.exponentials;
  const Vec<T> log_sum = Log<T>(others) + terms.reference + terms.correction;
  Vec<T> loss = negative_weight * log_sum - terms.own;
  if (plan.refined) {
    const Vec<T> gap = terms.own - (log_sum - Log<T>(terms.members));
    const Vec<T> doubt = T(1) / (T(1) + Exp<T>(Min<T>(Broadcast<T>(MathConstants<T>::kExpHighest), gap)));
    loss *= doubt;
    weight *= doubt;
  }
  LossFactors<T> factors = {loss, weight * negative_weight / others, -others / negative_weight, Broadcast(T(1)), zero};
  if (plan.transforms) factors = {loss, weight, Broadcast(T(-1)), zero, zero};  // Negatives weigh nothing.
  const Mask<T> none = others == T(0);
  factors.loss = none ? zero : factors.loss;
  factors.scale = none ? zero : factors.scale;
  factors.positive = none ? zero : factors.positive;
  return factors;
}

// Weights include what the loss is divided by. What a weight of 0 makes has a scale of 0.
template <typename T>
FASTNEG_INLINE LossFactors<T> LossOf(const InBatchPlan& plan, const LossTerms<T>& terms, Vec<T> weight) {
  LossFactors<T> factors =
      plan.positive_in_softmax ? LossWithPositive<T>(plan, terms, weight) : LossWithoutPositive<T>(plan, terms, weight);
  const Mask<T> counts = weight != T(0);
  factors.scale = counts ? factors.scale : Zero<T>();
  factors.positive = counts ? factors.positive : Zero<T>();
  return factors;
}

template <typename T>
FASTNEG_INLINE Vec<T> RowWeights(const InBatchPlan& plan, int64_t first, int64_t count) {
  const Vec<T> factor = Broadcast(static_cast<T>(plan.row_factor));
  if (plan.weights == nullptr) return factor;
  return factor * LoadValid(static_cast<const T*>(plan.weights) + first, count);
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SHARED_IN_BATCH_LOSSES_H_
