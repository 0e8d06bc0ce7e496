// A tile of the gathered losses' second pass: what is known of each of its rows before they meet their candidates, what
// the candidates add up to, and what becomes of both in the end.
#ifndef FASTNEG_CORE_CPU_GATHERED_ROW_TILE_H_
#define FASTNEG_CORE_CPU_GATHERED_ROW_TILE_H_

#include "core/cpu/gathered/candidate_facts.h"
#include "core/cpu/gathered/plan.h"
#include "core/cpu/gathered/prepare_rows.h"
#include "core/cpu/gathered/rows.h"
#include "core/cpu/simd/simd_math.h"
#include "core/losses/sv_softmax.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

template <typename T, typename Candidates>
class RowTile {
 public:
  static constexpr int kL = kLanes<T>;

  RowTile(const GatheredPlan& plan, const Candidates& candidates, int64_t tile)
      : begin(tile * plan.tile_rows),
        end(begin + plan.tile_rows < plan.batch_size ? begin + plan.tile_rows : plan.batch_size),
        chunks(RowChunks<T>(plan)),
        facts(plan),
        params{T(plan.gamma), T(plan.margin), T(plan.t)},
        plan_(plan),
        candidates_(candidates) {}

  // Prepares the tile's user rows, and fills in what is known before the negatives are: the positive's score and logit
  // and the number subtracted from every logit.
  __attribute__((noinline)) void Start() {
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
    num_active = 0;
    T* user = static_cast<T*>(plan_.user);
    for (int64_t i = begin; i < end; ++i) {
      if (plan_.active[i]) {
        rows[num_active++] = static_cast<int16_t>(i - begin);
      } else {
        for (int64_t d = 0; d < plan_.row_stride; d += kL) StoreAligned(user + i * plan_.row_stride + d, Zero<T>());
      }
    }
    for (int64_t a = 0; a < num_active; a += kL) {
      const int64_t count = num_active - a < kL ? num_active - a : kL;
      int64_t batch_rows[kL];
      for (int64_t l = 0; l < count; ++l) batch_rows[l] = begin + rows[a + l];
      PreparedRows<T> prepared;
      prepare(plan_, plan_.user_emb, plan_.user_row_stride, {batch_rows, count, user}, &prepared);
      T scores[kL];
      Store(scores, OwnScores(batch_rows, count));
      for (int64_t l = 0; l < count; ++l) {
        const int64_t i = batch_rows[l];
        const int64_t r = i - begin;
        user_inverse_[r] = prepared.inverse[l];
        graded[r] = plan_.grad_user != nullptr && (weights == nullptr || weights[i] != 0);
        sums[r] = Zero<T>();
        if (plan_.want_scalars) score_sums[r] = hard_sums[r] = Zero<T>();
        positive[r] = scores[l] - params.margin;
        positive_logit[r] = params.gamma * positive[r] + facts.NegLogProb(i);
        const T bound = LogitBound(plan_.normalise ? item_bound : prepared.norm[l] * item_bound, params);
        const T upper = bound + T(plan_.max_neg_log_prob);
        const T highest = upper > positive_logit[r] ? upper : positive_logit[r];
        if (!ReferenceFromBounds(positive_logit[r], highest, &reference[r])) reference[r] = LargestLogit(i);
      }
    }
  }

  // Row losses, their sums, and the user gradient's last step.
  __attribute__((noinline)) void Finish() {
    for (int64_t block = begin / kSumRows; block * kSumRows < end; ++block) {
      for (int s = 0; s < 4; ++s) plan_.block_sums[4 * block + s] = 0;
    }
    const T* weights = static_cast<const T*>(plan_.weights);
    T* grad_weights = static_cast<T*>(plan_.grad_weights);
    if (plan_.grad_user != nullptr) {
      for (int64_t i = begin; i < end; ++i) {
        if (plan_.active[i]) continue;
        static_cast<T*>(plan_.positive_weights)[i] = 0;
        for (int64_t d = 0; d < plan_.embedding_dim; ++d) GradUser(i)[d] = 0;
      }
    }
    if (grad_weights != nullptr) {
      for (int64_t i = begin; i < end; ++i) {
        if (!plan_.active[i]) grad_weights[i] = 0;
      }
    }
    for (int64_t a = 0; a < num_active; a += kL) {
      const int64_t count = num_active - a < kL ? num_active - a : kL;
      Vec<T> row_sums[kL];
      T positive_logits[kL], references[kL];
      for (int l = 0; l < kL; ++l) {
        const int64_t r = rows[a + (l < count ? l : 0)];
        row_sums[l] = sums[r];
        positive_logits[l] = positive_logit[r];
        references[l] = reference[r];
      }
      const Vec<T> negatives = TransposedSums<T>(row_sums);
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
        const int64_t r = rows[a + l];
        const int64_t i = begin + r;
        const T weight = weights == nullptr ? T(1) : weights[i];
        const double coefficient = weight == 0 ? 0.0 : static_cast<double>(weight) * plan_.inverse_count;
        double* block_sums = plan_.block_sums + 4 * (i / kSumRows);
        if (weight != 0) block_sums[0] += coefficient * static_cast<double>(losses[l]);
        if (grad_weights != nullptr) {
          grad_weights[i] = plan_.inverse_count == 0 ? T(0) : T(static_cast<double>(losses[l]) * plan_.inverse_count);
        }
        if (weight != 0 && plan_.want_scalars) {
          const double per_sum = coefficient / static_cast<double>(totals[l]);
          block_sums[1] += per_sum * static_cast<double>(Sum<T>(score_sums[r]));
          block_sums[2] += per_sum * plan_.gamma * static_cast<double>(negative_sums[l]);
          block_sums[3] += per_sum * plan_.gamma * static_cast<double>(Sum<T>(hard_sums[r]));
        }
        if (plan_.grad_user != nullptr) {
          static_cast<T*>(plan_.positive_weights)[i] = weight == 0 ? T(0) : -negative_sums[l];
          FinishGradUser(i, weight == 0 ? T(0) : T(coefficient * plan_.gamma / static_cast<double>(totals[l])),
                         negative_sums[l]);
        }
      }
    }
  }

  struct Exponentials {
    Vec<T> value;     // exp(logit - reference); 0 where there is no pair.
    Vec<T> sv_score;  // After the re-weighting.
    Mask<T> hard;
  };

  // What pairs with these scores add to their rows' sums: lanes with `kept` are pairs, `positive` and `reference` those
  // of their rows. `list` writes the user and item rows of all lanes' pairs, and is called where they matter.
  template <typename List>
  FASTNEG_INLINE Exponentials Exponentiate(Vec<T> score, Vec<T> positive, Vec<T> reference, Mask<T> kept,
                                           const List& list) const {
    const auto hard = IsHard<Vec<T>>(positive, score);
    const Vec<T> sv_score = hard ? HardScore(score, params) : score;
    Vec<T> exponent = params.gamma * sv_score - reference;
    if (facts.any()) {
      int64_t rows[kL], items[kL];
      list(rows, items);
      exponent += facts.GatherNegLogProb(items);
      kept = kept & ~facts.Hits(rows, items);
    }
    // The references keep exponents below kExponentsAbove but for the rounding of huge logits. NaN passes.
    constexpr T kHighest = T(kExponentsAbove + 5);
    exponent = exponent > kHighest ? Broadcast(kHighest) : exponent;
    return {kept ? Exp<T>(exponent) : Zero<T>(), sv_score, hard};
  }

  const T* User(int64_t i) const { return static_cast<const T*>(plan_.user) + i * plan_.row_stride; }
  const T* Item(int64_t j) const { return static_cast<const T*>(plan_.item) + j * plan_.row_stride; }
  T* GradUser(int64_t i) const { return static_cast<T*>(plan_.grad_user) + i * plan_.embedding_dim; }

  const int64_t begin, end;  // Rows of the batch.
  const int64_t chunks;      // Length of prepared rows in vectors.
  const CandidateFacts<T> facts;
  const SvSoftmaxParams<T> params;

  // By row of the tile; `rows` lists the active ones.
  int64_t num_active = 0;
  int16_t rows[kMaxTileRows];
  bool graded[kMaxTileRows];  // Has a gradient: a row of weight 0 is active only to tell its weight its loss.
  T positive[kMaxTileRows];   // Score, less margin.
  T positive_logit[kMaxTileRows];
  T reference[kMaxTileRows];        // Subtracted from every logit.
  Vec<T> sums[kMaxTileRows];        // Sum of the negatives' exponentials, lane by lane.
  Vec<T> score_sums[kMaxTileRows];  // ... times (score - positive).
  Vec<T> hard_sums[kMaxTileRows];   // ... of the hard ones, times (cosine + 1).

 private:
  // The scores of up to kL rows with their own items.
  FASTNEG_INLINE Vec<T> OwnScores(const int64_t* batch_rows, int64_t count) const {
    Vec<T> products[kL];
    for (int64_t l = 0; l < kL; ++l) {
      products[l] = Zero<T>();
      if (l >= count) continue;
      const T* query = User(batch_rows[l]);
      const T* item = Item(batch_rows[l]);
      Vec<T> sum = Zero<T>();
      for (int64_t c = 0; c < chunks; ++c) sum += LoadAligned(query + c * kL) * LoadAligned(item + c * kL);
      products[l] = sum;
    }
    return TransposedSums<T>(products);
  }

  // The row's maximum, for the rare row whose bounds are too far apart to do without it.
  T LargestLogit(int64_t i) const {
    const int64_t r = i - begin;
    const T* query = User(i);
    Vec<T> largest = Broadcast(positive_logit[r]);
    for (int64_t k = 0; k < plan_.num_candidates; k += kL) {
      const typename Candidates::template Group<kL> group(candidates_, k, plan_.num_candidates - k);
      int64_t items[kL], offsets[kL];
      group.Items(i, items);
      group.ItemOffsets(i, offsets);
      const Vec<T> score = CallDots<T, 1>(&query, Item(i), offsets, chunks);
      const auto hard = IsHard<Vec<T>>(Broadcast(positive[r]), score);
      Vec<T> logit = params.gamma * (hard ? HardScore(score, params) : score) + facts.GatherNegLogProb(items);
      int64_t own_rows[kL];
      for (int l = 0; l < kL; ++l) own_rows[l] = i;
      logit = facts.Hits(own_rows, items) ? largest : logit;
      // A NaN stays: comparisons with it are false.
      largest = largest >= logit ? largest : logit;
    }
    return MaxLane<T>(largest);
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
    const T inverse = user_inverse_[i - begin];
    if (dim == 8 * kL) return FinishChunks<8>(scale, negative_sum, inverse, item, user, grad);
    if (dim == 4 * kL) return FinishChunks<4>(scale, negative_sum, inverse, item, user, grad);
    NormalisationGrad<T> through(inverse);
    ForChunks<T>(dim, [&](int64_t d, int64_t valid) FASTNEG_LAMBDA_INLINE {
      const Vec<T> g = scale * (LoadValid(grad + d, valid) - negative_sum * LoadAligned(item + d));
      through.Meet(g, LoadAligned(user + d));
      StoreValid(grad + d, g, valid);
    });
    through.Close(plan_.normalise);
    ForChunks<T>(dim, [&](int64_t d, int64_t valid) FASTNEG_LAMBDA_INLINE {
      const Vec<T> row = LoadAligned(user + d);
      StoreValid(grad + d, through.Apply(LoadValid(grad + d, valid), row), valid);
      StoreAligned(user + d, scale * row);
    });
  }

  // The same where whole rows fit the registers.
  template <int kChunks>
  FASTNEG_INLINE void FinishChunks(T scale, T negative_sum, T inverse, const T* item, T* user, T* grad) {
    Vec<T> g[kChunks];
#pragma GCC unroll 8
    for (int c = 0; c < kChunks; ++c) g[c] = scale * (Load(grad + c * kL) - negative_sum * LoadAligned(item + c * kL));
    NormalisationGrad<T>(inverse).template Run<kChunks>(plan_.normalise, user, g);
#pragma GCC unroll 8
    for (int c = 0; c < kChunks; ++c) {
      Store(grad + c * kL, g[c]);
      StoreAligned(user + c * kL, scale * LoadAligned(user + c * kL));
    }
  }

  const GatheredPlan& plan_;
  const Candidates& candidates_;
  T user_inverse_[kMaxTileRows];  // 1 / norm; negative where the norm was clipped.
};

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_GATHERED_ROW_TILE_H_
