// A tile of the gathered losses' second pass: what is known of each of its rows before they meet their candidates, and
// what the candidates add up to.
#ifndef FASTNEG_CORE_CPU_GATHERED_ROW_TILE_H_
#define FASTNEG_CORE_CPU_GATHERED_ROW_TILE_H_

#include "core/cpu/gathered/candidate_facts.h"
#include "core/cpu/gathered/candidates.h"
#include "core/cpu/gathered/plan.h"
#include "core/cpu/gathered/prepare_rows.h"
#include "core/cpu/gathered/rows.h"
#include "core/cpu/simd/simd_math.h"
#include "core/losses/sv_softmax.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

template <typename T>
class RowTile {
 public:
  static constexpr int kL = kLanes<T>;

  RowTile(const GatheredPlan& plan, int64_t tile)
      : begin(tile * plan.tile_rows),
        end(begin + plan.tile_rows < plan.batch_size ? begin + plan.tile_rows : plan.batch_size),
        chunks(RowChunks<T>(plan)),
        facts(plan),
        params{T(plan.gamma), T(plan.margin), T(plan.t)},
        plan_(plan) {}

  // Prepares the tile's user rows, and fills in what is known before the negatives are: the positive's score and logit
  // and the number subtracted from every logit.
  FASTNEG_NOINLINE void Start() {
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
    skips_zeros = false;
    if (plan_.block_spoilt != nullptr) {
      for (int64_t block = 0; block < plan_.num_blocks; ++block) skips_zeros |= plan_.block_spoilt[block] != 0;
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
        user_inverse[r] = prepared.inverse[l];
        graded[r] = plan_.grad_user != nullptr && (weights == nullptr || weights[i] != 0);
        sums[r] = Zero<T>();
        if (plan_.want_scalars) score_sums[r] = hard_sums[r] = Zero<T>();
        positive[r] = scores[l] - params.margin;
        positive_logit[r] = params.gamma * positive[r] + (plan_.refined ? T(0) : facts.NegLogProb(i));
        const T bound = plan_.normalise ? item_bound : prepared.norm[l] * item_bound;
        const T upper = LogitBound(bound, params) + T(plan_.max_neg_log_prob);
        bool found;
        if (plan_.positive_in_softmax) {
          const T highest = positive_logit[r] > upper ? positive_logit[r] : upper;  // NaN where an item's norm is.
          found = ReferenceFromBounds(positive_logit[r], highest, &reference[r]);
        } else {
          const T lower = T(plan_.min_neg_log_prob) - LogitBound(bound, {-params.gamma, params.margin, params.t});
          found = ReferenceBetween(lower, upper, &reference[r]);
        }
        if (!found) reference[r] = ReferenceFromLogits(i, upper);
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

  // How many of row i's candidates have another id.
  FASTNEG_NOINLINE int64_t NumNegatives(int64_t i) const {
    if (!facts.has_ids()) return plan_.num_candidates;
    int64_t count = 0;
    for (int64_t k = 0; k < plan_.num_candidates; ++k) {
      int64_t item;
      CandidateGroup<1>(plan_, k, 1).Items(i, &item);
      count += !facts.IsHit(i, item);
    }
    return count;
  }

  const T* User(int64_t i) const { return static_cast<const T*>(plan_.user) + i * plan_.row_stride; }
  const T* Item(int64_t j) const { return static_cast<const T*>(plan_.item) + j * plan_.row_stride; }
  T* GradUser(int64_t i) const { return static_cast<T*>(plan_.grad_user) + i * plan_.embedding_dim; }

  const int64_t begin, end;  // Rows of the batch.
  const int64_t chunks;      // Length of prepared rows in vectors.
  const CandidateFacts<T> facts;
  const SvSoftmaxParams<T> params;

  bool skips_zeros = false;  // 0 times NaN would let through what an accidental hit holds.

  // By row of the tile; `rows` lists the active ones.
  int64_t num_active = 0;
  int16_t rows[kMaxTileRows];
  bool graded[kMaxTileRows];     // Has a gradient: a row of weight 0 is active only to tell its weight its loss.
  T user_inverse[kMaxTileRows];  // 1 / norm; negative where the norm was clipped.
  T positive[kMaxTileRows];      // Score, less margin.
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

  // For the rare row whose bounds are too far apart: looks for a logit that is close enough to the upper bound, or else
  // takes the largest of all.
  T ReferenceFromLogits(int64_t i, T upper) const {
    const int64_t r = i - begin;
    const T* query = User(i);
    constexpr T kNothing = -T(__builtin_huge_val());
    Vec<T> largest = Broadcast(plan_.positive_in_softmax ? positive_logit[r] : kNothing);
    for (int64_t k = 0; k < plan_.num_candidates; k += kL) {
      const CandidateGroup<kL> group(plan_, k, plan_.num_candidates - k);
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
      T found;
      if (ReferenceFromBounds(MaxLane<T>(largest), upper, &found)) return found;
    }
    const T highest = MaxLane<T>(largest);
    return highest == kNothing ? T(0) : highest;
  }

  const GatheredPlan& plan_;
};

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_GATHERED_ROW_TILE_H_
