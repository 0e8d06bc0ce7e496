// A block of the pairwise loss by power series (series.h): moments of its rows, from moments to polynomials,
// and the polynomials' values at the rows.
#ifndef FASTNEG_CORE_CPU_PAIRWISE_BLOCKS_H_
#define FASTNEG_CORE_CPU_PAIRWISE_BLOCKS_H_

#include "core/cpu/pairwise/plan.h"
#include "core/cpu/runtime/flush_denormals.h"
#include "core/cpu/simd/simd.h"

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
        width_(plan.series->box_width),
        per_width_(1 / width_),
        first_(static_cast<double>(block.first_box[side])),
        last_(static_cast<double>(block.num_boxes[side] - 1)) {}

  // The box of row k, and the row's place relative to the box's centre.
  FASTNEG_INLINE int64_t Find(int64_t k, double* place) const {
    const double position = position_[k] - shift_;
    const double found = position * per_width_ - first_;
    const auto box = static_cast<int64_t>(found < 0 ? 0.0 : found > last_ ? last_ : found);
    *place = position - (static_cast<double>(box) + first_ + 0.5) * width_;
    return box;
  }

  // The powers of a row's place. A row may be outside of its box: in an outermost box, which then counts for nothing or
  // as the linear function that softplus is far away (PlaceBoxes), so that no more than the first power matters.
  FASTNEG_INLINE Terms PowersOf(double place) const {
    const bool inside = place < width_ && place > -width_;
    Terms powers = Powers(inside ? place : 0.0);
    if (__builtin_expect(!inside, 0)) powers.v[0][1] = place;
    return powers;
  }

 private:
  const double* position_;
  double shift_;
  double width_, per_width_;  // Powers of 2: no rounding.
  double first_;
  double last_;
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
    AddScaled(weights == nullptr ? 1.0 : weights[k], grid.PowersOf(place), &sum);
    StoreTerms(moments, sum);
  }
}

// sums[f]_r += sum_q moments_q * g_{q + r} of the f-th function.
template <int kFunctions>
FASTNEG_INLINE void AddSeries(const Series* const* series, const double* moments, Terms* sums) {
  Terms odd[kFunctions] = {};  // Two chains of additions for each sum take turns: one would wait for itself.
#pragma GCC unroll 16
  for (int q = 0; q < kSeriesTerms; ++q) {
    for (int f = 0; f < kFunctions; ++f) {
      Terms& sum = q % 2 == 0 ? sums[f] : odd[f];
      for (int c = 0; c < kTermVectors && q + c * kTermLanes < kSeriesTerms; ++c)
        sum.v[c] += moments[q] * Load(series[f]->coefficients + q + c * kTermLanes);
    }
  }
  for (int f = 0; f < kFunctions; ++f) AddScaled(1.0, odd[f], sums + f);
}

enum Functions { kValueOnly, kSlopeOnly, kBoth };

// The polynomials of box `t` of one side from all moments of the other side.
template <Functions kWanted>
FASTNEG_INLINE void TranslateTo(const PairwisePlan& plan, const PairwiseBlock& block, Side target, int64_t t,
                                const double* moments, const double* factors) {
  constexpr int kCount = kWanted == kBoth ? 2 : 1;
  constexpr int kSlope = kCount - 1;  // The place of the slope's polynomial, if there is one.
  const PairwiseSeries& all = *plan.series;
  const Side source = target == kAbove ? kBelow : kAbove;
  Terms sums[kCount] = {};
  double far_value = 0, far_count = 0;
  for (int64_t s = 0; s < block.num_boxes[source]; ++s) {
    const double* from = moments + s * kSeriesTerms;
    if (IsZero(LoadTerms(from))) continue;
    const int64_t below = block.first_box[kBelow] + (target == kAbove ? s : t);
    const int64_t above = block.first_box[kAbove] + (target == kAbove ? t : s);
    const int64_t distance = below - above;
    if (distance < all.first_distance) continue;
    if (distance > all.last_distance) {
      far_value += all.box_width * static_cast<double>(distance) * from[0] + from[1];
      far_count += from[0];
      continue;
    }
    const int64_t entry = distance - all.first_distance;
    const Series* series[kCount] = {all.softplus + entry};
    if constexpr (kWanted != kValueOnly) series[kSlope] = all.sigmoid + entry;
    AddSeries<kCount>(series, from, sums);
  }
  const Terms scale = LoadTerms(factors);
  for (int f = 0; f < kCount; ++f) {
    for (int c = 0; c < kTermVectors; ++c) sums[f].v[c] *= scale.v[c];
  }
  if constexpr (kWanted != kSlopeOnly) {
    double* values = block.values + t * kSeriesTerms;
    StoreTerms(values, sums[0]);
    values[0] += far_value;
    values[1] -= far_count;
  }
  if constexpr (kWanted != kValueOnly) {
    double* slopes = block.slopes[target] + t * kSeriesTerms;
    StoreTerms(slopes, sums[kSlope]);
    slopes[0] += far_count;
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

  for (int64_t t = 0; t < num_targets; ++t) {
    if (target == kBelow) {
      TranslateTo<kSlopeOnly>(plan, block, target, t, moments, factors[target]);
    } else if (plan.want_slopes) {
      TranslateTo<kBoth>(plan, block, target, t, moments, factors[target]);
    } else {
      TranslateTo<kValueOnly>(plan, block, target, t, moments, factors[target]);
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
      const Terms powers = grid.PowersOf(place);
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
