// Second pass of the gathered losses: every active row meets its candidates once. Scores, exponentials, the row's loss
// and the user gradient come out of one sweep; the candidates' exponentials are kept for the item pass.
#ifndef FASTNEG_CORE_CPU_GATHERED_SCORE_ROWS_H_
#define FASTNEG_CORE_CPU_GATHERED_SCORE_ROWS_H_

#include "core/cpu/gathered/plan.h"
#include "core/cpu/gathered/row_tile.h"
#include "core/cpu/gathered/rows.h"
#include "core/cpu/runtime/flush_denormals.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

// Takes a tile's rows past all candidates, a few candidates at a time.
//
// A vector of pairs waits twice: its exponentials come right before the scores of the next vector, so that their long
// chain of arithmetic hides behind the loads of those, and its part of the gradient right after, when the exponentials
// are there and its rows are still in the first-level cache.
template <typename T, typename Candidates>
class CandidateSweep {
 public:
  CandidateSweep(const GatheredPlan& plan, const Candidates& candidates, RowTile<T, Candidates>* tile)
      : plan_(plan), candidates_(candidates), tile_(*tile) {}

  // kChunks is the length of prepared rows in vectors, or 0 for one that is known only now.
  template <int kChunks>
  FASTNEG_INLINE void Run() {
    for (int64_t k = 0; k < plan_.num_candidates;) {
      const int64_t left = plan_.num_candidates - k;
      if (left > kL / 2 || kL < 4) {
        k += Wide<kChunks>(k, left);
      } else if (left > kL / 4) {
        k += Narrow<2>(k, left);
      } else if (left > 1) {
        k += Narrow<(kL >= 4 ? 4 : 1)>(k, left);
      } else {
        k += Narrow<kL>(k, left);
      }
    }
  }

 private:
  static constexpr int kL = kLanes<T>;
  // Vectors of candidates that a row meets before the next row does, at most.
  static constexpr int kGroups = kL < kStreams ? 2 : 1;

  // Up to four candidates, as many as there are by default, deserve loops of their own.
  template <int kQueries>
  static constexpr bool kIsCommon = kL / kQueries == 4;

  // A vector of scores on its way to a part of the user gradient.
  struct Pending {
    bool scored = false;   // `score` waits for its exponentials.
    bool weighed = false;  // `weights` wait for the gradient.
    int group = 0;
    int64_t row = 0;                   // Of the tile.
    const int64_t* offsets = nullptr;  // Of the candidates, from the row's own item.
    Vec<T> score{};
    alignas(64) T weights[kL];
  };

  // Candidates first .. first + n - 1 of every active row, n <= left; returns n.
  template <int kChunks>
  __attribute__((noinline)) int64_t Wide(int64_t first, int64_t left) {
    using Group = typename Candidates::template Group<kL>;
    const int num_groups = left > kL + kL / 2 ? kGroups : 1;
    const int64_t n = left < num_groups * kL ? left : num_groups * kL;
    const int64_t last = (num_groups - 1) * kL;
    const Group groups[] = {Group(candidates_, first, n), Group(candidates_, first + last, n - last)};
    Mask<T> in_use[kGroups];  // Lanes with a candidate.
    for (int g = 0; g < kGroups; ++g) {
      for (int l = 0; l < kL; ++l) in_use[g][l] = g * kL + l < n ? -1 : 0;
    }
    // Two tables for each group: what is pending may still use the one before.
    int64_t offsets[kGroups][2][kL], until[kGroups] = {};
    int table[kGroups] = {};
    Pending pending;
    T* exp_weights = static_cast<T*>(plan_.exp_weights);
    Vec<T> block_weights[kGroups][kL];
    int64_t a = 0;
    for (int64_t block = tile_.begin; block < tile_.end; block += kL) {
      if (exp_weights != nullptr) {
        for (int g = 0; g < num_groups; ++g) {
#pragma GCC unroll 16
          for (int l = 0; l < kL; ++l) block_weights[g][l] = Zero<T>();
        }
      }
      for (; a < tile_.num_active && tile_.begin + tile_.rows[a] < block + kL; ++a) {
        const int64_t r = tile_.rows[a];
        const int64_t i = tile_.begin + r;
        for (int g = 0; g < num_groups; ++g) {
          if (i >= until[g]) {
            table[g] ^= 1;
            until[g] = groups[g].ItemOffsets(i, offsets[g][table[g]]);
          }
          const int64_t* places = offsets[g][table[g]];
          WeighPending(groups, in_use, block_weights, &pending);
          const Vec<T> score = Scores<kChunks>(i, places);
          AddPending<kChunks>(first > 0, &pending);
          pending.scored = true;
          pending.group = g;
          pending.row = r;
          pending.offsets = places;
          pending.score = score;
        }
      }
      WeighPending(groups, in_use, block_weights, &pending);
      if (exp_weights != nullptr) {
        for (int g = 0; g < num_groups; ++g) {
          Transpose<T>(block_weights[g]);
          T* out = exp_weights + (first + g * kL) * plan_.exp_stride + block;
          const int64_t rows = n - g * kL < kL ? n - g * kL : kL;
          for (int64_t k = 0; k < rows; ++k) StoreAligned(out + k * plan_.exp_stride, block_weights[g][k]);
        }
      }
    }
    AddPending<kChunks>(first > 0, &pending);
    return n;
  }

  // Scores of row i with the candidates at `offsets`.
  template <int kChunks>
  FASTNEG_INLINE Vec<T> Scores(int64_t i, const int64_t* offsets) {
    const T* query = tile_.User(i);
    if constexpr (kChunks > 0) {
      return DotsOfRow<T, kChunks>(query, tile_.Item(i), offsets);
    } else {
      return CallDots<T, 1>(&query, tile_.Item(i), offsets, tile_.chunks);
    }
  }

  // The exponentials of pending scores, into its place in the block of kL rows as well.
  FASTNEG_INLINE void WeighPending(const typename Candidates::template Group<kL>* groups, const Mask<T>* in_use,
                                   Vec<T> (*block_weights)[kL], Pending* pending) {
    if (!pending->scored) return;
    pending->scored = false;
    const int64_t r = pending->row;
    const int g = pending->group;
    const Vec<T> weight = Weigh(groups[g], r, pending->score, in_use[g]);
    if (!tile_.graded[r]) return;
    Store(pending->weights, weight);
    block_weights[g][r % kL] = weight;
    pending->weighed = true;
  }

  // The gradient's part of pending weights, added to what is there if `add` or if it is not the row's first.
  template <int kChunks>
  FASTNEG_INLINE void AddPending(bool add, Pending* pending) {
    if (!pending->weighed) return;
    pending->weighed = false;
    const int64_t i = tile_.begin + pending->row;
    const int64_t dim = plan_.embedding_dim;
    const WeightedSum<T> sum{pending->weights, nullptr, tile_.Item(i), pending->offsets, 0, kL};
    add |= pending->group > 0;
    if constexpr (kChunks > 0) {
      if (dim == kChunks * kL) {
        AddLanes<T, kChunks, true>(sum, dim, add, tile_.GradUser(i));
      } else {
        AddLanes<T, kChunks, false>(sum, dim, add, tile_.GradUser(i));
      }
    } else {
      CallAddWeightedRow<T>(sum, dim, add, tile_.GradUser(i));
    }
  }

  // From the scores of row r of the tile to the exponentials, t times those of hard negatives; adds up the row's sums.
  FASTNEG_INLINE Vec<T> Weigh(const typename Candidates::template Group<kL>& group, int64_t r, Vec<T> score,
                              Mask<T> kept) {
    const Vec<T> positive = Broadcast(tile_.positive[r]);
    const auto list = [&](int64_t* rows, int64_t* items) FASTNEG_LAMBDA_INLINE {
      for (int l = 0; l < kL; ++l) rows[l] = tile_.begin + r;
      group.Items(tile_.begin + r, items);
    };
    const auto e = tile_.Exponentiate(score, positive, Broadcast(tile_.reference[r]), kept, list);
    tile_.sums[r] += e.value;
    if (plan_.want_scalars) {
      tile_.score_sums[r] += WeightedTerm(e.value, e.sv_score - positive);
      tile_.hard_sums[r] += e.hard ? WeightedTerm(e.value, score + T(1)) : Zero<T>();
    }
    return e.hard ? e.value * tile_.params.t : e.value;
  }

  // The same where few candidates are left: kQueries rows share a vector. n is at most kL / kQueries.
  template <int kQueries>
  __attribute__((noinline)) int64_t Narrow(int64_t first, int64_t left) {
    constexpr int kPerQuery = kL / kQueries;
    const int64_t n = left < kPerQuery ? left : kPerQuery;
    const typename Candidates::template Group<kPerQuery> group(candidates_, first, n);
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

  // kQueries rows' pairs between their scores and their parts of the user gradients.
  template <int kQueries>
  struct SharedVector {
    int64_t offsets[kL];  // Of the candidates' prepared rows.
    alignas(64) T weights[kL];
    const int16_t* rows;
    int64_t count;  // Of rows; the lanes behind the last repeat the first.
  };

  template <int kQueries>
  FASTNEG_INLINE void Score(const typename Candidates::template Group<kL / kQueries>& group, Mask<T> in_use,
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
      if constexpr (kIsCommon<kQueries>) {
        AddWeightedRows<T, 1>(sum, plan_.embedding_dim, first > 0, tile_.GradUser(i));
      } else {
        CallAddWeightedRow<T>(sum, plan_.embedding_dim, first > 0, tile_.GradUser(i));
      }
    }
  }

  const GatheredPlan& plan_;
  const Candidates& candidates_;
  RowTile<T, Candidates>& tile_;
};

template <typename T, typename Candidates>
FASTNEG_INLINE void SweepCandidates(CandidateSweep<T, Candidates> sweep, int64_t chunks) {
  if constexpr (sizeof(T) == 4 && kVectorBytes == 64) {  // 32 registers: enough for whole rows.
    if (chunks == 2) return sweep.template Run<2>();
    if (chunks == 4) return sweep.template Run<4>();
    if (chunks == 8) return sweep.template Run<8>();
  }
  sweep.template Run<0>();
}

template <typename T, typename Candidates>
void ScoreRowTile(const GatheredPlan& plan, const Candidates& candidates, int64_t index) {
  RowTile<T, Candidates> tile(plan, candidates, index);
  tile.Start();
  SweepCandidates<T, Candidates>({plan, candidates, &tile}, tile.chunks);
  tile.Finish();
}

template <typename T, typename Candidates>
void ScoreRows(void* context, int64_t tile) {
  const FlushDenormals flush;
  const GatheredPlan& plan = *static_cast<const GatheredPlan*>(context);
  const Candidates candidates(plan);
  if (candidates.Valid()) ScoreRowTile<T>(plan, candidates, tile);
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_GATHERED_SCORE_ROWS_H_
