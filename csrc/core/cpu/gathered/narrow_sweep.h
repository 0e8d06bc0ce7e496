// Rows past the last few candidates: kQueries rows share a vector of pairs, whose part of the gradients comes after the
// next vector's scores.
#ifndef FASTNEG_CORE_CPU_GATHERED_NARROW_SWEEP_H_
#define FASTNEG_CORE_CPU_GATHERED_NARROW_SWEEP_H_

#include "core/cpu/gathered/candidates.h"
#include "core/cpu/gathered/plan.h"
#include "core/cpu/gathered/row_tile.h"
#include "core/cpu/gathered/rows.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

template <typename T>
class NarrowSweep {
 public:
  NarrowSweep(const GatheredPlan& plan, RowTile<T>* tile) : plan_(plan), tile_(*tile) {}

  // Candidates first .. first + n - 1 of every active row, n <= left and at most kL / kQueries; returns n.
  template <int kQueries>
  FASTNEG_NOINLINE int64_t Run(int64_t first, int64_t left) {
    constexpr int kPerQuery = kL / kQueries;
    const int64_t n = left < kPerQuery ? left : kPerQuery;
    const CandidateGroup<kPerQuery> group(plan_, first, n);
    Mask<T> in_use;
    for (int l = 0; l < kL; ++l) in_use[l] = l % kPerQuery < n ? -1 : 0;
    T* exp_weights =
        plan_.exp_weights == nullptr ? nullptr : static_cast<T*>(plan_.exp_weights) + first * plan_.exp_stride;
    if (exp_weights != nullptr && tile_.num_active < tile_.end - tile_.begin) {
      for (int64_t k = 0; k < n; ++k) {
        for (int64_t i = tile_.begin; i < tile_.end; ++i) exp_weights[k * plan_.exp_stride + i] = 0;
      }
    }
    int64_t table[kPerQuery] = {}, until = 0;
    SharedVector<kQueries> vectors[2];
    int turn = 0;
    bool waits = false;
    for (int64_t a = 0; a < tile_.num_active; a += vectors[turn ^ 1].count) {
      SharedVector<kQueries>& vector = vectors[turn];
      vector.rows = tile_.rows + a;
      // Rows share a vector with others of their block only: a row's place in it must not depend on the cut into tiles.
      const int64_t block = tile_.rows[a] / kSumRows;
      vector.count = 1;
      while (vector.count < kQueries && a + vector.count < tile_.num_active &&
             vector.rows[vector.count] / kSumRows == block) {
        ++vector.count;
      }
      for (int q = 0; q < kQueries; ++q) {
        const int64_t i = tile_.begin + vector.rows[q < vector.count ? q : 0];
        if (q < vector.count && i >= until) until = group.ItemOffsets(i, table);
        const int64_t place = q < vector.count ? i * plan_.row_stride : 0;
        for (int k = 0; k < kPerQuery; ++k) {
          vector.offsets[q * kPerQuery + k] = q < vector.count ? table[k] + place : vector.offsets[k];
        }
      }
      Score<kQueries>(group, in_use, &vector);
      turn ^= 1;
      if (waits) AddToUserGrads<kQueries>(vectors[turn], first, n, exp_weights);
      waits = exp_weights != nullptr;
    }
    if (waits) AddToUserGrads<kQueries>(vectors[turn ^ 1], first, n, exp_weights);
    return n;
  }

 private:
  static constexpr int kL = kLanes<T>;

  // Up to four candidates, as many as there are by default, deserve loops of their own.
  template <int kQueries>
  static constexpr bool kIsCommon = kL / kQueries == 4;

  // kQueries rows' pairs between their scores and their parts of the user gradients.
  template <int kQueries>
  struct SharedVector {
    int64_t offsets[kL];  // Of the candidates' prepared rows.
    alignas(64) T weights[kL];
    const int16_t* rows;
    int64_t count;  // Of rows; the lanes behind the last repeat the first.
  };

  template <int kQueries>
  FASTNEG_INLINE void Score(const CandidateGroup<kL / kQueries>& group, Mask<T> in_use,
                            SharedVector<kQueries>* vector) {
    constexpr int kPerQuery = kL / kQueries;
    const T* queries[kQueries];
    Vec<T> positive = Zero<T>(), reference = Zero<T>();
#pragma GCC unroll 16
    for (int q = 0; q < kQueries; ++q) {
      const int64_t r = vector->rows[q < vector->count ? q : 0];
      queries[q] = tile_.User(tile_.begin + r);
      positive = OwnLanes<kQueries>(q) ? Broadcast(tile_.positive[r]) : positive;
      reference = OwnLanes<kQueries>(q) ? Broadcast(tile_.reference[r]) : reference;
    }
    const auto list = [&](int64_t* rows, int64_t* items) FASTNEG_LAMBDA_INLINE {
      for (int q = 0; q < kQueries; ++q) {
        const int64_t i = tile_.begin + vector->rows[q < vector->count ? q : 0];
        for (int l = q * kPerQuery; l < (q + 1) * kPerQuery; ++l) rows[l] = i;
        group.Items(i, items + q * kPerQuery);
      }
    };
    const Vec<T> score = kIsCommon<kQueries>
                             ? Dots<T, kQueries>(queries, tile_.Item(0), vector->offsets, tile_.chunks)
                             : CallDots<T, kQueries>(queries, tile_.Item(0), vector->offsets, tile_.chunks);
    const auto e = tile_.Exponentiate(score, positive, reference, in_use, list);
    Store(vector->weights, e.hard ? e.value * tile_.params.t : e.value);
#pragma GCC unroll 1
    for (int q = 0; q < vector->count; ++q) {
      const int64_t r = vector->rows[q];
      const Vec<T> own = OwnLanes<kQueries>(q) ? e.value : Zero<T>();
      tile_.sums[r] += own;
      if (plan_.want_scalars) {
        tile_.score_sums[r] += WeightedTerm(own, e.sv_score - positive);
        tile_.hard_sums[r] += e.hard ? WeightedTerm(own, score + T(1)) : Zero<T>();
      }
    }
  }

  // The lanes that belong to the q-th of kQueries rows which share a vector.
  template <int kQueries>
  static FASTNEG_INLINE Mask<T> OwnLanes(int q) {
    Mask<T> own{};
#pragma GCC unroll 16
    for (int l = 0; l < kL; ++l) own[l] = l / (kL / kQueries) == q ? -1 : 0;
    return own;
  }

  template <int kQueries>
  FASTNEG_INLINE void AddToUserGrads(const SharedVector<kQueries>& vector, int64_t first, int64_t n, T* exp_weights) {
    constexpr int kPerQuery = kL / kQueries;
    for (int64_t q = 0; q < vector.count; ++q) {
      const int64_t r = vector.rows[q];
      const int64_t i = tile_.begin + r;
      if (!tile_.graded[r]) {
        for (int64_t k = 0; k < n; ++k) exp_weights[k * plan_.exp_stride + i] = 0;
        continue;
      }
      const T* weights = vector.weights + q * kPerQuery;
      for (int64_t k = 0; k < n; ++k) exp_weights[k * plan_.exp_stride + i] = weights[k];
      const WeightedSum<T> sum{weights, nullptr, tile_.Item(0), vector.offsets + q * kPerQuery, 0, n};
      if (tile_.skips_zeros) {
        AddNonzero<T>(sum, plan_.embedding_dim, first > 0, tile_.GradUser(i));
      } else if constexpr (kIsCommon<kQueries>) {
        AddWeightedRows<T, 1>(sum, plan_.embedding_dim, first > 0, tile_.GradUser(i));
      } else {
        CallAddWeightedRow<T>(sum, plan_.embedding_dim, first > 0, tile_.GradUser(i));
      }
    }
  }

  const GatheredPlan& plan_;
  RowTile<T>& tile_;
};

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_GATHERED_NARROW_SWEEP_H_
