// Second pass of the gathered losses: every active row meets its candidates once. Scores, exponentials, the row's loss
// and the user gradient come out of one sweep; the candidates' exponentials are kept for the item pass.
#ifndef FASTNEG_CORE_CPU_SCORE_ROWS_H_
#define FASTNEG_CORE_CPU_SCORE_ROWS_H_

#include "core/cpu/candidate_facts.h"
#include "core/cpu/flush_denormals.h"
#include "core/cpu/gathered_plan.h"
#include "core/cpu/gathered_rows.h"
#include "core/cpu/prepare_rows.h"
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
        facts_(plan),
        params_{T(plan.gamma), T(plan.margin), T(plan.t)},
        begin_(tile * plan.tile_rows),
        end_(begin_ + plan.tile_rows < plan.batch_size ? begin_ + plan.tile_rows : plan.batch_size),
        chunks_(RowChunks<T>(plan)) {}

  void Run() {
    PrepareUsers();
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
  // Prepares the tile's user rows, and fills in what is known before the negatives are: the positive's score and logit
  // and the number subtracted from every logit.
  __attribute__((noinline)) void PrepareUsers() {
    const PrepareFunction<T> prepare = ChoosePrepare<T>(plan_);
    const T* weights = static_cast<const T*>(plan_.weights);
    T item_bound = T(1.00001);  // |cosine|, with room for rounding.
    if (!plan_.normalise) {
      const T* norms = static_cast<const T*>(plan_.block_norms);
      T largest = 0;
      for (int64_t block = 0; block < plan_.num_blocks; ++block)
        largest = largest >= norms[block] ? largest : norms[block];
      item_bound *= largest;
    }
    num_active_ = 0;
    for (int64_t i = begin_; i < end_; ++i) {
      T* user = static_cast<T*>(plan_.user) + i * plan_.row_stride;
      if (!plan_.active[i]) {
        for (int64_t d = 0; d < plan_.row_stride; d += kL) StoreAligned(user + d, Zero<T>());
        continue;
      }
      const int64_t r = i - begin_;
      T norm = 1;
      prepare(plan_, plan_.user_emb, plan_.user_row_stride, i, user, &user_inverse_[r], &norm);
      rows_[num_active_++] = static_cast<int16_t>(r);
      graded_[r] = plan_.grad_user != nullptr && (weights == nullptr || weights[i] != 0);
      sums_[r] = Zero<T>();
      if (plan_.want_scalars) score_sums_[r] = hard_sums_[r] = Zero<T>();
      positive_[r] = Dot(user, Item(i), chunks_) - params_.margin;
      positive_logit_[r] = params_.gamma * positive_[r] + facts_.NegLogProb(i);
      const T upper = LogitBound(plan_.normalise ? item_bound : norm * item_bound, params_) + T(plan_.max_neg_log_prob);
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
      alignas(64) int64_t items[kL], offsets[kL];
      group.Items(i, items);
      group.ItemOffsets(i, offsets);
      const Vec<T> score = Dots<T, 1>(&query, Item(0), offsets, chunks_);
      const auto hard = IsHard<Vec<T>>(Broadcast(positive_[r]), score);
      Vec<T> logit = params_.gamma * (hard ? HardScore(score, params_) : score) + facts_.GatherNegLogProb(items);
      int64_t own_rows[kL];
      for (int l = 0; l < kL; ++l) own_rows[l] = i;
      logit = facts_.Hits(own_rows, items) ? largest : logit;
      // A NaN stays: comparisons with it are false.
      largest = largest >= logit ? largest : logit;
    }
    return MaxLane<T>(largest);
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
    // The gradient of one vector of pairs is formed after the scores of the next: its rows are then in the first-level
    // cache, and its arithmetic fills the time that the exponentials and the loads of the next ones take.
    int turn = 0;
    bool waiting = false;
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
        Pairs& pairs = pairs_[turn];
        Score<kQueries>(group, rows_ + a, count, in_use, block, &pairs);
        turn ^= 1;
        if (waiting) AddToUserGrads<kQueries>(first, n, pairs_[turn]);
        waiting = plan_.grad_user != nullptr;
      }
      a = a_end;
      if (kQueries == 1 && exp_weights != nullptr) {
        Transpose<T>(block_weights_);
        T* out = exp_weights + first * plan_.exp_stride + begin_ + block;
        for (int64_t k = 0; k < n; ++k) StoreAligned(out + k * plan_.exp_stride, block_weights_[k]);
      }
    }
    if (waiting) AddToUserGrads<kQueries>(first, n, pairs_[turn ^ 1]);
    return n;
  }

  // A vector of pairs between its scores and its part of the user gradient.
  struct Pairs {
    // Written as vectors and read back one by one: a store that crosses a line would not be forwarded to those loads.
    alignas(64) int64_t offsets[kL];  // Of the candidates' prepared rows.
    alignas(64) T weights[kL];
    const int16_t* rows;
    int64_t count;  // Rows that share the vector.
  };

  // Scores one vector of pairs: those of `count` rows of the tile.
  template <int kQueries>
  FASTNEG_INLINE void Score(const typename Candidates::template Group<kL / kQueries>& group, const int16_t* rows,
                            int64_t count, Mask<T> in_use, int64_t block, Pairs* pairs) {
    constexpr int kPerQuery = kL / kQueries;
    const T* queries[kQueries];
    int64_t* offsets = pairs->offsets;
    pairs->rows = rows;
    pairs->count = count;
    Vec<T> positive = Zero<T>(), reference = Zero<T>();
#pragma GCC unroll 16
    for (int q = 0; q < kQueries; ++q) {
      const int64_t r = rows[q < count ? q : 0];
      queries[q] = User(begin_ + r);
      group.ItemOffsets(begin_ + r, offsets + q * kPerQuery);
      positive = OwnLanes<kQueries>(q) ? Broadcast(positive_[r]) : positive;
      reference = OwnLanes<kQueries>(q) ? Broadcast(reference_[r]) : reference;
    }
    const Vec<T> score = Dots<T, kQueries>(queries, Item(0), offsets, chunks_);
    const auto hard = IsHard<Vec<T>>(positive, score);
    const Vec<T> sv_score = hard ? HardScore(score, params_) : score;
    Vec<T> exponent = params_.gamma * sv_score - reference;
    Mask<T> kept = in_use;
    if (facts_.any()) {
      int64_t items[kL], own_rows[kL];
      for (int q = 0; q < kQueries; ++q) {
        const int64_t i = begin_ + rows[q < count ? q : 0];
        group.Items(i, items + q * kPerQuery);
        for (int l = q * kPerQuery; l < (q + 1) * kPerQuery; ++l) own_rows[l] = i;
      }
      exponent += facts_.GatherNegLogProb(items);
      kept = kept & ~facts_.Hits(own_rows, items);
    }
    // The references keep exponents below kExponentsAbove but for the rounding of huge logits. NaN passes.
    constexpr T kHighest = T(kExponentsAbove + 5);
    exponent = exponent > kHighest ? Broadcast(kHighest) : exponent;
    const Vec<T> e = kept ? Exp<T>(exponent) : Zero<T>();
    const Vec<T> weight = hard ? e * params_.t : e;
    Store(pairs->weights, weight);
#pragma GCC unroll 16
    for (int q = 0; q < kQueries; ++q) {
      if (q >= count) break;
      const int64_t r = rows[q];
      const Mask<T> own = OwnLanes<kQueries>(q) & kept;
      sums_[r] += own ? e : Zero<T>();
      if (plan_.want_scalars) {
        score_sums_[r] += own ? e * (sv_score - positive) : Zero<T>();
        hard_sums_[r] += (hard & own) ? e * (score + T(1)) : Zero<T>();
      }
    }
    if (kQueries == 1 && graded_[rows[0]]) block_weights_[rows[0] - block] = weight;
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
  FASTNEG_INLINE void AddToUserGrads(int64_t first, int64_t n, const Pairs& pairs) {
    constexpr int kPerQuery = kL / kQueries;
    for (int q = 0; q < (kQueries == 1 ? 1 : pairs.count); ++q) {
      const int64_t r = pairs.rows[q];
      const int64_t i = begin_ + r;
      const T* weights = pairs.weights + q * kPerQuery;
      if (kQueries > 1) {
        T* out = static_cast<T*>(plan_.exp_weights) + first * plan_.exp_stride + i;
        for (int64_t k = 0; k < n; ++k) out[k * plan_.exp_stride] = graded_[r] ? weights[k] : T(0);
      }
      if (!graded_[r]) continue;
      WeightedRows<T>(weights, Item(0), pairs.offsets + q * kPerQuery, n, plan_.embedding_dim, first > 0, GradUser(i));
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
      Vec<T> sums[kL];
      T positive_logits[kL], references[kL];
      for (int l = 0; l < kL; ++l) {
        const int64_t r = rows_[a + (l < count ? l : 0)];
        sums[l] = sums_[r];
        positive_logits[l] = positive_logit_[r];
        references[l] = reference_[r];
      }
      const Vec<T> negatives = TransposedSums<T>(sums);
      const Vec<T> below = Load(positive_logits) - Load(references);
      // log(e_0 + S) - l_0 = log1p(S / e_0), or the first form where S / e_0 may overflow. e_0 may be 0 there.
      const Vec<T> e0 = Exp<T>(below);
      const Vec<T> ratio = negatives / e0;
      const Vec<T> row_loss = ratio < T(1e30) ? Log1p<T>(ratio) : Log<T>(negatives + e0) - below;
      T losses[kL], negative_sums[kL], totals[kL];
      Store(losses, row_loss);
      Store(negative_sums, negatives);
      Store(totals, negatives + e0);
      for (int l = 0; l < count; ++l) {
        const int64_t r = rows_[a + l];
        const int64_t i = begin_ + r;
        const T weight = weights == nullptr ? T(1) : weights[i];
        const double coefficient = weight == 0 ? 0.0 : static_cast<double>(weight) * plan_.inverse_count;
        double* sums = plan_.block_sums + 4 * (i / kSumRows);
        if (weight != 0) sums[0] += coefficient * static_cast<double>(losses[l]);
        if (grad_weights != nullptr) {
          grad_weights[i] = plan_.inverse_count == 0 ? T(0) : T(static_cast<double>(losses[l]) * plan_.inverse_count);
        }
        if (weight != 0 && plan_.want_scalars) {
          const double per_sum = coefficient / static_cast<double>(totals[l]);
          sums[1] += per_sum * static_cast<double>(Sum<T>(score_sums_[r]));
          sums[2] += per_sum * plan_.gamma * static_cast<double>(negative_sums[l]);
          sums[3] += per_sum * plan_.gamma * static_cast<double>(Sum<T>(hard_sums_[r]));
        }
        if (plan_.grad_user != nullptr) {
          static_cast<T*>(plan_.negative_sum)[i] = weight == 0 ? T(0) : negative_sums[l];
          FinishGradUser(i, weight == 0 ? T(0) : T(coefficient * plan_.gamma / static_cast<double>(totals[l])),
                         negative_sums[l]);
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
    for (int64_t d = 0; d < dim; d += kL) {
      const int64_t valid = dim - d < kL ? dim - d : kL;
      const Vec<T> sum = valid == kL ? Load(grad + d) : LoadPartial(grad + d, valid);
      const Vec<T> g = scale * (sum - negative_sum * LoadAligned(item + d));
      valid == kL ? Store(grad + d, g) : StorePartial(grad + d, g, valid);
    }
    if (plan_.normalise) ThroughNormalisation<T>(user, user_inverse_[i - begin_], dim, grad);
    for (int64_t d = 0; d < dim; d += kL) StoreAligned(user + d, scale * LoadAligned(user + d));
  }

  const GatheredPlan& plan_;
  const Candidates candidates_;
  const CandidateFacts<T> facts_;
  const SvSoftmaxParams<T> params_;
  const int64_t begin_, end_, chunks_;
  int64_t num_active_ = 0;
  // By row of the tile; rows_ lists the active ones.
  int16_t rows_[kRows];
  bool graded_[kRows];     // Has a gradient: a row of weight 0 is active only to tell its weight its loss.
  T user_inverse_[kRows];  // 1 / norm; negative where the norm was clipped.
  T positive_[kRows], positive_logit_[kRows], reference_[kRows];
  Pairs pairs_[2];
  Vec<T> block_weights_[kL];
  Vec<T> sums_[kRows];        // Sum of the negatives' exponentials, lane by lane.
  Vec<T> score_sums_[kRows];  // ... times (score - positive).
  Vec<T> hard_sums_[kRows];   // ... of the hard ones, times (cosine + 1).
};

template <typename T>
void ScoreRolledRows(void* context, int64_t tile) {
  const FlushDenormals flush;
  const GatheredPlan& plan = *static_cast<const GatheredPlan*>(context);
  RowTile<T, RolledCandidates>(plan, RolledCandidates(plan), tile).Run();
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SCORE_ROWS_H_
