// A block of the pairwise loss by power series (pairwise_series.h): moments of its rows, from moments to polynomials,
// and the polynomials' values at the rows.
#ifndef FASTNEG_CORE_CPU_PAIRWISE_BLOCKS_H_
#define FASTNEG_CORE_CPU_PAIRWISE_BLOCKS_H_

#include "core/cpu/flush_denormals.h"
#include "core/cpu/pairwise_plan.h"
#include "core/cpu/simd.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

// The 16 numbers of a box: moments, or a polynomial's coefficients.
constexpr int kTermLanes = kLanes<double>;
constexpr int kTermVectors = kSeriesTerms / kTermLanes;

struct Terms {
  Vec<double> v[kTermVectors];
};

FASTNEG_INLINE Terms LoadTerms(const double* p) {
  Terms terms;
  for (int c = 0; c < kTermVectors; ++c) terms.v[c] = Load(p + c * kTermLanes);
  return terms;
}
FASTNEG_INLINE void StoreTerms(double* p, const Terms& terms) {
  for (int c = 0; c < kTermVectors; ++c) Store(p + c * kTermLanes, terms.v[c]);
}
FASTNEG_INLINE void AddScaled(double factor, const Terms& terms, Terms* sum) {
  for (int c = 0; c < kTermVectors; ++c) sum->v[c] += factor * terms.v[c];
}
FASTNEG_INLINE Vec<double> LanewiseDot(const Terms& a, const Terms& b) {
  Vec<double> sum = a.v[0] * b.v[0];
  for (int c = 1; c < kTermVectors; ++c) sum += a.v[c] * b.v[c];
  return sum;
}
FASTNEG_INLINE bool IsZero(const Terms& terms) {
  Mask<double> nonzero{};
  for (int c = 0; c < kTermVectors; ++c) nonzero |= terms.v[c] != 0;  // NaN is not zero.
  return !Any<double>(nonzero);
}

// x^0 .. x^15.
template <int kStep = 1>
FASTNEG_INLINE Vec<double> LowPowers(double x, Vec<double> powers) {
  if constexpr (kStep == kTermLanes) {
    return powers;
  } else {
    Mask<double> has_step{};
    for (int l = 0; l < kTermLanes; ++l) has_step[l] = (l & kStep) ? -1 : 0;
    return LowPowers<2 * kStep>(x * x, has_step ? powers * x : powers);
  }
}
FASTNEG_INLINE Terms Powers(double x) {
  double next = x;
  for (int step = 1; step < kTermLanes; step *= 2) next *= next;  // x^kTermLanes
  Terms powers;
  powers.v[0] = LowPowers(x, Broadcast(1.0));
  for (int c = 1; c < kTermVectors; ++c) powers.v[c] = powers.v[c - 1] * next;
  return powers;
}

// Where one side's rows lie.
class BoxGrid {
 public:
  FASTNEG_INLINE BoxGrid(const PairwisePlan& plan, const PairwiseBlock& block, Side side)
      : position_(plan.position),
        shift_(side == kAbove ? plan.margin : 0.0),
        first_(static_cast<double>(block.first_box[side])),
        last_(block.num_boxes[side] - 1) {}

  // The box of row k, and the row's place relative to the box's centre. A row that rounding puts next to its box is
  // taken at the nearest box, which is as good.
  FASTNEG_INLINE int64_t Find(int64_t k, double* place) const {
    const double position = position_[k] - shift_;
    const int64_t found = static_cast<int64_t>(position * (1 / kBoxWidth) - first_);
    const int64_t box = found < 0 ? 0 : found > last_ ? last_ : found;
    *place = position - (static_cast<double>(box) + first_ + 0.5) * kBoxWidth;
    return box;
  }

 private:
  const double* position_;
  double shift_;
  double first_;
  int64_t last_;
};

inline void PairwiseMoments(void* context, int64_t index) {
  const FlushDenormals flush;
  const auto& plan = *static_cast<const PairwisePlan*>(context);
  const PairwiseTask& task = plan.moment_tasks[index];
  const double* weights = task.side == kAbove ? plan.sorted_weights : nullptr;
  const BoxGrid grid(plan, *task.block, task.side);
  const int64_t size = task.block->num_boxes[task.side] * kSeriesTerms;
  for (int64_t d = 0; d < size; ++d) task.moments[d] = 0;
  for (int64_t k = task.rows.begin; k < task.rows.end; ++k) {
    double place;
    double* moments = task.moments + grid.Find(k, &place) * kSeriesTerms;
    Terms sum = LoadTerms(moments);
    AddScaled(weights == nullptr ? 1.0 : weights[k], Powers(place), &sum);
    StoreTerms(moments, sum);
  }
}

// sum_r += moment * g_{q + r}
FASTNEG_INLINE void AddSeries(const Series& series, const double* moments, Terms* sum) {
#pragma GCC unroll 16
  for (int q = 0; q < kSeriesTerms; ++q) {
    for (int c = 0; c < kTermVectors && q + c * kTermLanes < kSeriesTerms; ++c)
      sum->v[c] += moments[q] * Load(series.coefficients + q + c * kTermLanes);
  }
}

// One side's polynomials from the other side's moments.
inline void PairwiseTranslate(void* context, int64_t index) {
  const FlushDenormals flush;
  const auto& plan = *static_cast<const PairwisePlan*>(context);
  const PairwiseBlock& block = plan.blocks[index / 2];
  const Side target = static_cast<Side>(index % 2), source = target == kAbove ? kBelow : kAbove;
  if (block.direct || block.num_chunks[source] == 0) return;

  // Moments of all chunks, with the factors of the series: 1 / q!, and (-1)^r for the side that is subtracted.
  double factors[2][kSeriesTerms];
  for (int q = 0; q < kSeriesTerms; ++q) {
    factors[kBelow][q] = plan.series->inverse_factorials[q];
    factors[kAbove][q] = q % 2 == 0 ? factors[kBelow][q] : -factors[kBelow][q];
  }
  const int64_t num_sources = block.num_boxes[source], num_targets = block.num_boxes[target];
  double* moments = block.moments[source];
  for (int64_t d = 0; d < num_sources * kSeriesTerms; ++d) {
    double sum = moments[d];
    for (int64_t chunk = 1; chunk < block.num_chunks[source]; ++chunk)
      sum += moments[chunk * num_sources * kSeriesTerms + d];
    moments[d] = sum * factors[source][d % kSeriesTerms];
  }

  const bool want_values = target == kAbove;
  for (int64_t t = 0; t < num_targets; ++t) {
    Terms value = {}, slope = {};
    double far_value = 0, far_count = 0;
    for (int64_t s = 0; s < num_sources; ++s) {
      const double* from = moments + s * kSeriesTerms;
      if (IsZero(LoadTerms(from))) continue;
      const int64_t below = block.first_box[kBelow] + (target == kAbove ? s : t);
      const int64_t above = block.first_box[kAbove] + (target == kAbove ? t : s);
      const int64_t distance = below - above;
      if (distance < kFirstDistance) continue;
      if (distance > kLastDistance) {
        far_value += kBoxWidth * static_cast<double>(distance) * from[0] + from[1];
        far_count += from[0];
        continue;
      }
      const int64_t entry = distance - kFirstDistance;
      if (want_values) AddSeries(plan.series->softplus[entry], from, &value);
      if (plan.want_slopes) AddSeries(plan.series->sigmoid[entry], from, &slope);
    }
    const Terms scale = LoadTerms(factors[target]);
    for (int c = 0; c < kTermVectors; ++c) {
      value.v[c] *= scale.v[c];
      slope.v[c] *= scale.v[c];
    }
    if (want_values) {
      double* values = block.values + t * kSeriesTerms;
      StoreTerms(values, value);
      values[0] += far_value;
      values[1] -= far_count;
    }
    if (plan.want_slopes) {
      double* slopes = block.slopes[target] + t * kSeriesTerms;
      StoreTerms(slopes, slope);
      slopes[0] += far_count;
    }
  }
}

// sums[k] += the polynomial of row k's box, for some rows. `second` may come along with the same boxes.
template <bool kTwo>
FASTNEG_INLINE void EvaluateRows(const BoxGrid& grid, RowRange rows, const double* first_terms, double* first_sums,
                                 const double* second_terms, double* second_sums) {
  for (int64_t k = rows.begin; k < rows.end; k += kTermLanes) {
    const int64_t count = rows.end - k < kTermLanes ? rows.end - k : kTermLanes;
    Vec<double> first[kTermLanes], second[kTermLanes];
#pragma GCC unroll 8
    for (int l = 0; l < kTermLanes; ++l) {
      double place;
      const int64_t box = grid.Find(k + (l < count ? l : 0), &place) * kSeriesTerms;
      const Terms powers = Powers(place);
      first[l] = LanewiseDot(powers, LoadTerms(first_terms + box));
      if constexpr (kTwo) second[l] = LanewiseDot(powers, LoadTerms(second_terms + box));
    }
    StoreValid(first_sums + k, LoadValid(first_sums + k, count) + TransposedSums<double>(first), count);
    if constexpr (kTwo)
      StoreValid(second_sums + k, LoadValid(second_sums + k, count) + TransposedSums<double>(second), count);
  }
}

inline void EvaluateBlockRows(const PairwisePlan& plan, const PairwiseTask& task) {
  const PairwiseBlock& block = *task.block;
  const BoxGrid grid(plan, block, task.side);
  if (task.side == kBelow) {
    EvaluateRows<false>(grid, task.rows, block.slopes[kBelow], plan.slope_below, nullptr, nullptr);
  } else if (plan.want_slopes) {
    EvaluateRows<true>(grid, task.rows, block.values, plan.value, block.slopes[kAbove], plan.slope_above);
  } else {
    EvaluateRows<false>(grid, task.rows, block.values, plan.value, nullptr, nullptr);
  }
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_PAIRWISE_BLOCKS_H_
