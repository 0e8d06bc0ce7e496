// Rows past many candidates: a vector of pairs is of one row.
//
// It waits twice: its exponentials come right before the scores of the next vector, so that their long chain of
// arithmetic hides behind the loads of those, and its part of the gradient right after, when the exponentials are there
// and its rows are still in the first-level cache.
#ifndef FASTNEG_CORE_CPU_GATHERED_WIDE_SWEEP_H_
#define FASTNEG_CORE_CPU_GATHERED_WIDE_SWEEP_H_

#include "core/cpu/gathered/candidates.h"
#include "core/cpu/gathered/plan.h"
#include "core/cpu/gathered/row_tile.h"
#include "core/cpu/gathered/rows.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

template <typename T>
class WideSweep {
 public:
  WideSweep(const GatheredPlan& plan, RowTile<T>* tile) : plan_(plan), tile_(*tile) {}

  // Candidates first .. first + n - 1 of every active row, n <= left; returns n. kChunks is the length of prepared rows
  // in vectors, or 0 for one that is known only now.
  template <int kChunks>
  FASTNEG_NOINLINE int64_t Run(int64_t first, int64_t left) {
    using Group = CandidateGroup<kL>;
    const int num_groups = left > kL + kL / 2 ? kGroups : 1;
    const int64_t n = left < num_groups * kL ? left : num_groups * kL;
    const int64_t last = (num_groups - 1) * kL;
    const Group groups[] = {Group(plan_, first, n), Group(plan_, first + last, n - last)};
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
          CallTranspose<T>(block_weights[g]);
          T* out = exp_weights + (first + g * kL) * plan_.exp_stride + block;
          const int64_t rows = n - g * kL < kL ? n - g * kL : kL;
          for (int64_t k = 0; k < rows; ++k) StoreAligned(out + k * plan_.exp_stride, block_weights[g][k]);
        }
      }
    }
    AddPending<kChunks>(first > 0, &pending);
    return n;
  }

 private:
  static constexpr int kL = kLanes<T>;
  // Vectors of candidates that a row meets before the next row does, at most.
  static constexpr int kGroups = kL < kStreams ? 2 : 1;

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
  FASTNEG_INLINE void WeighPending(const CandidateGroup<kL>* groups, const Mask<T>* in_use, Vec<T> (*block_weights)[kL],
                                   Pending* pending) {
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
    if (tile_.skips_zeros) return AddNonzero<T>(sum, dim, add, tile_.GradUser(i));
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
  FASTNEG_INLINE Vec<T> Weigh(const CandidateGroup<kL>& group, int64_t r, Vec<T> score, Mask<T> kept) {
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

  const GatheredPlan& plan_;
  RowTile<T>& tile_;
};

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_GATHERED_WIDE_SWEEP_H_
