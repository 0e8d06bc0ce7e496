// The pairwise loss pair by pair: leaves, and blocks whose rows are too few or too far apart for power series.
#ifndef FASTNEG_CORE_CPU_PAIRWISE_PAIRS_H_
#define FASTNEG_CORE_CPU_PAIRWISE_PAIRS_H_

#include "core/cpu/pairwise/plan.h"
#include "core/cpu/runtime/flush_denormals.h"
#include "core/cpu/simd/simd_math.h"
#include "core/losses/pairwise_logistic.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

// A float64 position as the sum of two numbers of type T, so that the difference of two positions is as precise as T
// allows however far from 0 both lie. An infinite or NaN position is all in `high`.
template <typename T>
struct SplitPosition {
  T high, low;

  FASTNEG_INLINE explicit SplitPosition(double position) : high(static_cast<T>(position)), low(0) {
    if constexpr (sizeof(T) < sizeof(double)) {
      const double rest = position - static_cast<double>(high);
      if (rest - rest == 0) low = static_cast<T>(rest);
    }
  }
};

template <typename T>
struct PairTerms {
  Vec<T> value, slope;  // softplus(u) and sigmoid(u)
};

template <typename T, bool kSlopes>
FASTNEG_INLINE PairTerms<T> PairTermsOf(Vec<T> u) {
  PairTerms<T> terms;
  const Vec<T> exp = Exp<T>(MinusMagnitude(u));
  terms.value = Softplus(u, Log1p<T>(exp));
  if constexpr (kSlopes) terms.slope = Sigmoid(u, exp);
  return terms;
}

template <typename T>
FASTNEG_INLINE Mask<T> FirstLanes(int64_t count) {
  Mask<T> lane{};
  for (int l = 0; l < kLanes<T>; ++l) lane[l] = static_cast<typename Simd<T>::Int>(l);
  const auto bound = static_cast<typename Simd<T>::Int>(count < kLanes<T> ? count : kLanes<T>);
  return lane < bound;
}

// The rows below, as a row above meets them: arrays that may be read up to the next multiple of kLanes.
template <typename T>
struct RowsBelow {
  const T* high;
  const T* low;
  T* slopes;  // Gets weight * sigmoid; null where each row above is for itself.
  int64_t count;
};

template <typename T, bool kSlopes>
FASTNEG_INLINE PairTerms<T> MeetRowsBelow(SplitPosition<T> row, T weight, const RowsBelow<T>& below) {
  PairTerms<T> sums = {};
  for (int64_t j = 0; j < below.count; j += kLanes<T>) {
    Vec<T> u = Load(below.high + j) - row.high;
    if constexpr (sizeof(T) < sizeof(double)) u += Load(below.low + j) - row.low;
    PairTerms<T> terms = PairTermsOf<T, kSlopes>(u);
    Vec<T> weighted = Zero<T>();
    if constexpr (kSlopes) weighted = weight * terms.slope;
    if (j + kLanes<T> > below.count) {
      const Mask<T> valid = FirstLanes<T>(below.count - j);
      terms.value = valid ? terms.value : Zero<T>();
      if constexpr (kSlopes) {
        terms.slope = valid ? terms.slope : Zero<T>();
        weighted = valid ? weighted : Zero<T>();  // Not weight * 0: the weight may be infinite.
      }
    }
    sums.value += terms.value;
    if constexpr (kSlopes) {
      sums.slope += terms.slope;
      Store(below.slopes + j, Load(below.slopes + j) + weighted);
    }
  }
  return sums;
}

template <typename T>
FASTNEG_INLINE void PairLeaf(const PairwisePlan& plan, RowRange rows) {
  T high[kLeafRows + kLanes<T>], low[kLeafRows + kLanes<T>], slopes[kLeafRows + kLanes<T>];
  // The highest level is below nothing.
  const int64_t num_below = plan.level_begin[rows.end - 1] - rows.begin;
  for (int64_t j = 0; j < num_below + kLanes<T>; ++j) {
    const SplitPosition<T> position(j < num_below ? plan.position[rows.begin + j] : 0.0);
    high[j] = position.high;
    low[j] = position.low;
    slopes[j] = 0;
  }
  for (int64_t i = rows.begin; i < rows.end; ++i) {
    const int64_t count = plan.level_begin[i] - static_cast<int64_t>(rows.begin);
    const double weight = plan.sorted_weights == nullptr ? 1.0 : plan.sorted_weights[i];
    if (count == 0 || (weight == 0 && plan.grad_weights == nullptr)) continue;
    const SplitPosition<T> row(plan.position[i] - plan.margin);
    const RowsBelow<T> below = {high, low, slopes, count};
    if (plan.want_slopes && weight != 0) {
      const PairTerms<T> sums = MeetRowsBelow<T, true>(row, static_cast<T>(weight), below);
      plan.value[i] += static_cast<double>(Sum<T>(sums.value));
      plan.slope_above[i] += static_cast<double>(Sum<T>(sums.slope));
    } else {
      plan.value[i] += static_cast<double>(Sum<T>(MeetRowsBelow<T, false>(row, T(0), below).value));
    }
  }
  if (!plan.want_slopes) return;
  for (int64_t j = 0; j < num_below; ++j) plan.slope_below[rows.begin + j] += static_cast<double>(slopes[j]);
}

template <typename T>
void PairwiseLeaves(void* context, int64_t index) {
  const FlushDenormals flush;
  const auto& plan = *static_cast<const PairwisePlan*>(context);
  const int64_t begin = index * kLeavesPerTask;
  const int64_t end = begin + kLeavesPerTask < plan.num_leaves ? begin + kLeavesPerTask : plan.num_leaves;
  for (int64_t leaf = begin; leaf < end; ++leaf) PairLeaf<T>(plan, plan.leaves[leaf]);
}

// Some rows of a block against all rows of the other side. Each pair is computed twice, once for each of its rows: no
// two tasks then write to one place, and none needs more memory.
inline void PairBlockRows(const PairwisePlan& plan, const PairwiseTask& task) {
  constexpr int kL = kLanes<double>;
  const PairwiseBlock& block = *task.block;
  const double* weights = plan.sorted_weights;
  const int64_t step = task.side == kAbove ? 1 : kL;
  for (int64_t k = task.rows.begin; k < task.rows.end; k += step) {
    if (task.side == kAbove) {
      if (weights != nullptr && weights[k] == 0 && plan.grad_weights == nullptr) continue;
      const bool want_slope = plan.want_slopes && (weights == nullptr || weights[k] != 0);
      PairTerms<double> sums = {};
      for (int64_t j = block.begin; j < block.middle; j += kL) {
        const int64_t count = block.middle - j < kL ? block.middle - j : kL;
        const Mask<double> valid = FirstLanes<double>(count);
        const Vec<double> u = LoadValid(plan.position + j, count) - (plan.position[k] - plan.margin);
        const PairTerms<double> terms = PairTermsOf<double, true>(u);
        sums.value += valid ? terms.value : Zero<double>();
        sums.slope += valid ? terms.slope : Zero<double>();
      }
      plan.value[k] += Sum<double>(sums.value);
      if (want_slope) plan.slope_above[k] += Sum<double>(sums.slope);
    } else {
      const int64_t count = task.rows.end - k < kL ? task.rows.end - k : kL;
      const Vec<double> position = LoadValid(plan.position + k, count);
      Vec<double> sum = Zero<double>();
      for (int64_t i = block.middle; i < block.end; ++i) {
        const double weight = weights == nullptr ? 1.0 : weights[i];
        if (weight == 0) continue;
        const Vec<double> u = position - (plan.position[i] - plan.margin);
        sum += weight * Sigmoid(u, Exp<double>(MinusMagnitude(u)));
      }
      StoreValid(plan.slope_below + k, LoadValid(plan.slope_below + k, count) + sum, count);
    }
  }
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_PAIRWISE_PAIRS_H_
