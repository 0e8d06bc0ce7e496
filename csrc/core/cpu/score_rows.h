// Second pass of the gathered losses: every active row meets its candidates once. Scores, exponentials, the row's loss
// and the user gradient come out of one sweep; the candidates' exponentials are kept for the item pass.
#ifndef FASTNEG_CORE_CPU_SCORE_ROWS_H_
#define FASTNEG_CORE_CPU_SCORE_ROWS_H_

#include "core/cpu/gathered_plan.h"
#include "core/cpu/gathered_rows.h"
#include "core/cpu/rolled_candidates.h"
#include "core/cpu/simd_math.h"
#include "core/losses/sv_softmax.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

template <typename T, typename Candidates>
class RowTile {
 public:
  RowTile(const GatheredPlan& plan, const Candidates& candidates, int64_t tile)
      : plan_(plan),
        candidates_(candidates),
        params_{T(plan.gamma), T(plan.margin), T(plan.t)},
        begin_(tile * plan.tile_rows),
        end_(begin_ + plan.tile_rows < plan.batch_size ? begin_ + plan.tile_rows : plan.batch_size),
        chunks_(RowChunks<T>(plan)) {}

  void Run() {
    ChooseReferences();
    for (int64_t k = 0; k < plan_.num_candidates;) {
      const int64_t left = plan_.num_candidates - k;
      if (left > kL / 2 || kL < 4) {
        k += Group<1>(k, left);
      } else if (left > kL / 4) {
        k += Group<2>(k, left);
      } else if (left > 1) {
        k += Group<(kL >= 4 ? 4 : 1)>(k, left);
      } else {
        k += Group<kL>(k, left);
      }
    }
    Finish();
  }

 private:
  static constexpr int kL = kLanes<T>;
  static constexpr int64_t kRows = kMaxTileRows;

  const T* User(int64_t i) const { return static_cast<const T*>(plan_.user) + i * plan_.row_stride; }
  const T* Item(int64_t j) const { return static_cast<const T*>(plan_.item) + j * plan_.row_stride; }
  T NegLogProb(int64_t j) const {
    return plan_.neg_log_prob == nullptr ? T(0) : static_cast<const T*>(plan_.neg_log_prob)[j];
  }

  // Fills, for every active row of the tile, what is known before its negatives are: the positive's score and logit and
  // the number subtracted from every logit.
  __attribute__((noinline)) void ChooseReferences() {
    T bound = T(1.00001);  // |cosine|, with room for rounding.
    if (!plan_.normalise) {
      const T* norms = static_cast<const T*>(plan_.block_norms);
      T user_max = 0, item_max = 0;
      for (int64_t block = 0; block < plan_.num_blocks; ++block) {
        user_max = user_max >= norms[2 * block] ? user_max : norms[2 * block];
        item_max = item_max >= norms[2 * block + 1] ? item_max : norms[2 * block + 1];
      }
      bound *= user_max * item_max;
    }
    const T upper = LogitBound(bound, params_) + T(plan_.max_neg_log_prob);
    const T* weights = static_cast<const T*>(plan_.weights);
    num_active_ = 0;
    for (int64_t i = begin_; i < end_; ++i) {
      if (!plan_.active[i]) continue;
      const int64_t r = i - begin_;
      rows_[num_active_++] = static_cast<int16_t>(r);
      graded_[r] = plan_.grad_user != nullptr && (weights == nullptr || weights[i] != 0);
      sums_[r] = Zero<T>();
      if (plan_.want_scalars) score_sums_[r] = hard_sums_[r] = Zero<T>();
      positive_[r] = static_cast<const T*>(plan_.positive)[i] - params_.margin;
      positive_logit_[r] = params_.gamma * positive_[r] + NegLogProb(i);
      const T highest = upper > positive_logit_[r] ? upper : positive_logit_[r];
      if (!ReferenceFromBounds(positive_logit_[r], highest, &reference_[r])) reference_[r] = LargestLogit(i);
    }
  }

  // The row's maximum, for the rare row whose bounds are too far apart to do without it.
  T LargestLogit(int64_t i) const {
    const int64_t r = i - begin_;
    const T* query = User(i);
    Vec<T> largest = Broadcast(positive_logit_[r]);
    for (int64_t k = 0; k < plan_.num_candidates; k += kL) {
      const typename Candidates::template Group<kL> group(candidates_, k, plan_.num_candidates - k);
      int64_t items[kL], offsets[kL];
      group.Items(i, items);
      group.ItemOffsets(i, offsets);
      const Vec<T> score = Dots<T, 1>(&query, Item(0), offsets, chunks_);
      const auto hard = IsHard<Vec<T>>(Broadcast(positive_[r]), score);
      Vec<T> logit = params_.gamma * (hard ? HardScore(score, params_) : score) + GatherNegLogProb(items);
      int64_t own_rows[kL];
      for (int l = 0; l < kL; ++l) own_rows[l] = i;
      logit = Hits(own_rows, items) ? largest : logit;
      // A NaN stays: comparisons with it are false.
      largest = largest >= logit ? largest : logit;
    }
    return MaxLane<T>(largest);
  }

  FASTNEG_INLINE Vec<T> GatherNegLogProb(const int64_t* items) const {
    Vec<T> result = Zero<T>();
    if (plan_.neg_log_prob != nullptr) {
      T lanes[kL];
      for (int l = 0; l < kL; ++l) lanes[l] = static_cast<const T*>(plan_.neg_log_prob)[items[l]];
      result = Load(lanes);
    }
    return result;
  }

  // Lanes whose candidate has the id of its row: accidental hits.
  FASTNEG_INLINE Mask<T> Hits(const int64_t* rows, const int64_t* items) const {
    Mask<T> mask{};
    if (plan_.candidate_ids != nullptr) {
      typename Simd<T>::Int lanes[kL];
      for (int l = 0; l < kL; ++l) lanes[l] = plan_.candidate_ids[items[l]] == plan_.candidate_ids[rows[l]] ? -1 : 0;
      __builtin_memcpy(&mask, lanes, sizeof(mask));
    }
    return mask;
  }

  // Candidates first .. first + n - 1 of every active row, n = min(kL / kQueries, left); kQueries rows share a vector.
  template <int kQueries>
  __attribute__((noinline)) int64_t Group(int64_t first, int64_t left) {
    constexpr int kPerQuery = kL / kQueries;
    const int64_t n = left < kPerQuery ? left : kPerQuery;
    const typename Candidates::template Group<kPerQuery> group(candidates_, first, n);
    Mask<T> in_use;  // Lanes with a candidate.
    for (int l = 0; l < kL; ++l) in_use[l] = (l % kPerQuery) < n ? -1 : 0;
    T* exp_weights = static_cast<T*>(plan_.exp_weights);
    int64_t a = 0;
    for (int64_t block = 0; block < end_ - begin_; block += kL) {
      if (kQueries == 1 && exp_weights != nullptr) {
        for (int l = 0; l < kL; ++l) block_weights_[l] = Zero<T>();
      }
      int64_t a_end = a;
      while (a_end < num_active_ && rows_[a_end] < block + kL) ++a_end;
      if (kQueries > 1 && exp_weights != nullptr && a_end - a < kL) {
        const int64_t stop = block + kL < end_ - begin_ ? kL : end_ - begin_ - block;
        for (int64_t k = first; k < first + n; ++k) {
          for (int64_t l = 0; l < stop; ++l) exp_weights[k * plan_.exp_stride + begin_ + block + l] = 0;
        }
      }
      for (; a < a_end; a += kQueries) {
        const int64_t count = a_end - a < kQueries ? a_end - a : kQueries;
        Rows<kQueries>(group, first, n, rows_ + a, count, in_use, block);
      }
      a = a_end;
      if (kQueries == 1 && exp_weights != nullptr) {
        Transpose<T>(block_weights_);
        T* out = exp_weights + first * plan_.exp_stride + begin_ + block;
        for (int64_t k = 0; k < n; ++k) StoreAligned(out + k * plan_.exp_stride, block_weights_[k]);
      }
    }
    return n;
  }

  // One vector of pairs: `count` rows of the tile, n candidates each.
  template <int kQueries>
  FASTNEG_INLINE void Rows(const typename Candidates::template Group<kL / kQueries>& group, int64_t first, int64_t n,
                           const int16_t* rows, int64_t count, Mask<T> in_use, int64_t block) {
    constexpr int kPerQuery = kL / kQueries;
    const T* queries[kQueries];
    int64_t offsets[kL];
    Vec<T> positive = Zero<T>(), reference = Zero<T>();
    for (int q = 0; q < kQueries; ++q) {
      const int64_t r = rows[q < count ? q : 0];
      queries[q] = User(begin_ + r);
      group.ItemOffsets(begin_ + r, offsets + q * kPerQuery);
      if (kQueries > 1) {
        for (int l = q * kPerQuery; l < (q + 1) * kPerQuery; ++l) {
          positive[l] = positive_[r];
          reference[l] = reference_[r];
        }
      }
    }
    if (kQueries == 1) {
      positive = Broadcast(positive_[rows[0]]);
      reference = Broadcast(reference_[rows[0]]);
    }
    const Vec<T> score = Dots<T, kQueries>(queries, Item(0), offsets, chunks_);
    const auto hard = IsHard<Vec<T>>(positive, score);
    const Vec<T> sv_score = hard ? HardScore(score, params_) : score;
    Vec<T> exponent = params_.gamma * sv_score - reference;
    Mask<T> kept = in_use;
    if (plan_.neg_log_prob != nullptr || plan_.candidate_ids != nullptr) {
      int64_t items[kL], own_rows[kL];
      for (int q = 0; q < kQueries; ++q) {
        const int64_t i = begin_ + rows[q < count ? q : 0];
        group.Items(i, items + q * kPerQuery);
        for (int l = q * kPerQuery; l < (q + 1) * kPerQuery; ++l) own_rows[l] = i;
      }
      exponent += GatherNegLogProb(items);
      kept = kept & ~Hits(own_rows, items);
    }
    // The references keep exponents below kExponentsAbove but for the rounding of huge logits. NaN passes.
    constexpr T kHighest = T(kExponentsAbove + 5);
    exponent = exponent > kHighest ? Broadcast(kHighest) : exponent;
    const Vec<T> e = kept ? Exp<T>(exponent) : Zero<T>();
    const Vec<T> weight = hard ? e * params_.t : e;
    if (kQueries == 1) {
      const int64_t r = rows[0];
      sums_[r] += e;
      if (plan_.want_scalars) {
        score_sums_[r] += kept ? e * (sv_score - positive) : Zero<T>();
        hard_sums_[r] += (hard & kept) ? e * (score + T(1)) : Zero<T>();
      }
      if (graded_[r]) {
        T lanes[kL];
        Store(lanes, weight);
        block_weights_[r - block] = weight;
        const int64_t i = begin_ + r;
        WeightedRows<T>(lanes, Item(0), offsets, n, plan_.embedding_dim, first > 0, GradUser(i));
      }
    } else {
      T lanes[kL];
      Store(lanes, weight);
      for (int q = 0; q < count; ++q) {
        const int64_t r = rows[q];
        Mask<T> own;
        for (int l = 0; l < kL; ++l) own[l] = l / kPerQuery == q ? -1 : 0;
        own &= kept;
        sums_[r] += own ? e : Zero<T>();
        if (plan_.want_scalars) {
          score_sums_[r] += own ? e * (sv_score - positive) : Zero<T>();
          hard_sums_[r] += (hard & own) ? e * (score + T(1)) : Zero<T>();
        }
        if (plan_.grad_user != nullptr) {
          const int64_t i = begin_ + r;
          T* out = static_cast<T*>(plan_.exp_weights) + first * plan_.exp_stride + i;
          for (int64_t k = 0; k < n; ++k) out[k * plan_.exp_stride] = graded_[r] ? lanes[q * kPerQuery + k] : T(0);
          if (!graded_[r]) continue;
          WeightedRows<T>(lanes + q * kPerQuery, Item(0), offsets + q * kPerQuery, n, plan_.embedding_dim, first > 0,
                          GradUser(i));
        }
      }
    }
  }

  T* GradUser(int64_t i) const { return static_cast<T*>(plan_.grad_user) + i * plan_.embedding_dim; }

  // Row losses, their sums, and the user gradient's last step.
  __attribute__((noinline)) void Finish() {
    for (int64_t block = begin_ / kSumRows; block * kSumRows < end_; ++block) {
      for (int s = 0; s < 4; ++s) plan_.block_sums[4 * block + s] = 0;
    }
    const T* weights = static_cast<const T*>(plan_.weights);
    T* grad_weights = static_cast<T*>(plan_.grad_weights);
    if (plan_.grad_user != nullptr) {
      for (int64_t i = begin_; i < end_; ++i) {
        if (plan_.active[i]) continue;
        static_cast<T*>(plan_.negative_sum)[i] = 0;
        for (int64_t d = 0; d < plan_.embedding_dim; ++d) GradUser(i)[d] = 0;
      }
    }
    if (grad_weights != nullptr) {
      for (int64_t i = begin_; i < end_; ++i) {
        if (!plan_.active[i]) grad_weights[i] = 0;
      }
    }
    for (int64_t a = 0; a < num_active_; a += kL) {
      const int64_t count = num_active_ - a < kL ? num_active_ - a : kL;
      Vec<T> negatives, below;
      for (int l = 0; l < kL; ++l) {
        const int64_t r = rows_[a + (l < count ? l : 0)];
        negatives[l] = Sum<T>(sums_[r]);
        below[l] = positive_logit_[r] - reference_[r];
      }
      // log(e_0 + S) - l_0 = log1p(S / e_0), or the first form where S / e_0 may overflow. e_0 may be 0 there.
      const Vec<T> e0 = Exp<T>(below);
      const Vec<T> ratio = negatives / e0;
      const Vec<T> row_loss = ratio < T(1e30) ? Log1p<T>(ratio) : Log<T>(negatives + e0) - below;
      const Vec<T> total = negatives + e0;
      for (int l = 0; l < count; ++l) {
        const int64_t r = rows_[a + l];
        const int64_t i = begin_ + r;
        const T weight = weights == nullptr ? T(1) : weights[i];
        const double coefficient = weight == 0 ? 0.0 : static_cast<double>(weight) * plan_.inverse_count;
        double* sums = plan_.block_sums + 4 * (i / kSumRows);
        if (weight != 0) sums[0] += coefficient * static_cast<double>(row_loss[l]);
        if (grad_weights != nullptr) {
          grad_weights[i] = plan_.inverse_count == 0 ? T(0) : T(static_cast<double>(row_loss[l]) * plan_.inverse_count);
        }
        if (weight != 0 && plan_.want_scalars) {
          const double per_sum = coefficient / static_cast<double>(total[l]);
          sums[1] += per_sum * static_cast<double>(Sum<T>(score_sums_[r]));
          sums[2] += per_sum * plan_.gamma * static_cast<double>(negatives[l]);
          sums[3] += per_sum * plan_.gamma * static_cast<double>(Sum<T>(hard_sums_[r]));
        }
        if (plan_.grad_user != nullptr) {
          static_cast<T*>(plan_.negative_sum)[i] = weight == 0 ? T(0) : negatives[l];
          FinishGradUser(i, weight == 0 ? T(0) : T(coefficient * plan_.gamma / static_cast<double>(total[l])),
                         negatives[l]);
        }
      }
    }
  }

  // grad = scale (sum_k e_k v_k - S v_0), then back through the normalisation; the user row is left scaled.
  FASTNEG_INLINE void FinishGradUser(int64_t i, T scale, T negative_sum) {
    const int64_t dim = plan_.embedding_dim;
    T* grad = GradUser(i);
    T* user = static_cast<T*>(plan_.user) + i * plan_.row_stride;
    const T* item = Item(i);
    if (scale == 0) {
      for (int64_t d = 0; d < dim; ++d) grad[d] = 0;
      for (int64_t d = 0; d < plan_.row_stride; ++d) user[d] = 0;
      return;
    }
    const int64_t whole = dim - dim % kL;
    Vec<T> dot = Zero<T>();
    for (int64_t d = 0; d < whole; d += kL) {
      const Vec<T> g = scale * (Load(grad + d) - negative_sum * LoadAligned(item + d));
      dot += g * LoadAligned(user + d);
      Store(grad + d, g);
    }
    if (whole < dim) {
      const Vec<T> g = scale * (LoadPartial(grad + whole, dim - whole) - negative_sum * LoadAligned(item + whole));
      dot += g * LoadAligned(user + whole);
      StorePartial(grad + whole, g, dim - whole);
    }
    const T inverse = plan_.normalise ? static_cast<const T*>(plan_.user_inverse)[i] : T(-1);
    const T length = inverse < 0 ? -inverse : inverse;
    const T along = inverse < 0 ? T(0) : Sum<T>(dot);
    for (int64_t d = 0; d < dim; d += kL) {
      const int64_t valid = dim - d < kL ? dim - d : kL;
      const Vec<T> u = LoadAligned(user + d);
      const Vec<T> g = valid == kL ? Load(grad + d) : LoadPartial(grad + d, valid);
      const Vec<T> result = length * (g - along * u);
      valid == kL ? Store(grad + d, result) : StorePartial(grad + d, result, valid);
      StoreAligned(user + d, scale * u);
    }
  }

  const GatheredPlan& plan_;
  const Candidates candidates_;
  const SvSoftmaxParams<T> params_;
  const int64_t begin_, end_, chunks_;
  int64_t num_active_ = 0;
  // By row of the tile; rows_ lists the active ones.
  int16_t rows_[kRows];
  bool graded_[kRows];  // Has a gradient: a row of weight 0 is active only to tell its weight its loss.
  T positive_[kRows], positive_logit_[kRows], reference_[kRows];
  Vec<T> block_weights_[kL];
  Vec<T> sums_[kRows];        // Sum of the negatives' exponentials, lane by lane.
  Vec<T> score_sums_[kRows];  // ... times (score - positive).
  Vec<T> hard_sums_[kRows];   // ... of the hard ones, times (cosine + 1).
};

template <typename T>
void ScoreRolledRows(void* context, int64_t tile) {
  const GatheredPlan& plan = *static_cast<const GatheredPlan*>(context);
  RowTile<T, RolledCandidates>(plan, RolledCandidates(plan), tile).Run();
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SCORE_ROWS_H_
