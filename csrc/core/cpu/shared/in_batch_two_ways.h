// The in-batch loss where candidates are classified too: a sweep for the sums of rows and columns, and another one,
// which scores again, for the gradients of both.
#ifndef FASTNEG_CORE_CPU_SHARED_IN_BATCH_TWO_WAYS_H_
#define FASTNEG_CORE_CPU_SHARED_IN_BATCH_TWO_WAYS_H_

#include "core/cpu/shared/in_batch_columns.h"
#include "core/cpu/shared/in_batch_rows.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

// Logits of the positives: the columns' references, unless some of their sums turn out not to suit.
template <typename T>
void OwnLogits(void* context, int64_t index) {
  const FlushDenormals flush;
  const InBatchPlan& plan = *static_cast<const InBatchPlan*>(context);
  InBatchBlock<T> block(plan, index);
  LoadInputs(plan, &block);
  LoadPositives(plan, &block);
  for (int64_t r = 0; r < block.count; ++r) {
    static_cast<T*>(plan.own_logits)[block.first + r] = block.own[r];
    static_cast<T*>(plan.column_references)[block.first + r] = block.own[r];
  }
}

// A block's sums over the columns of one tile, a vector for each; each is stored padded apart.
template <typename T>
struct ColumnSums {
  Vec<T> exponentials[kTileVecs] = {};
  Vec<T> members[kTileVecs] = {};
  Vec<T> logits[kTileVecs] = {};
};

// What the scores of the candidates from `first` on, a tile of them, add to the sums of rows and columns.
template <typename T, bool kReweights, bool kCounts, bool kOneReference>
FASTNEG_INLINE void SumTile(const InBatchPlan& plan, const InBatchBlock<T>& block, const T* scores, int64_t first,
                            int64_t vecs, LaneSums<T>* rows) {
  constexpr int64_t kWidth = kWidthOfPanel<T>;
  const int64_t padded = plan.num_panels * kWidth;
  const Vec<T> highest = Broadcast<T>(MathConstants<T>::kExpHighest), zero = Zero<T>(), one = Broadcast(T(1));
  const Reweighting<T> reweighting(plan);
  const T* offsets = static_cast<const T*>(plan.offsets) + first;
  const T* references = static_cast<const T*>(plan.column_references) + first;
  const T* factors = static_cast<const T*>(plan.factors) + first;
  ColumnSums<T> columns;
  for (int64_t r = 0; r < block.count; ++r) {
    const Vec<T> reference = Broadcast(block.reference[r]), own = Broadcast(block.own[r]);
    const int64_t lane = r * kLanes<T>;
    Vec<T> sum = Load(rows->exponentials + lane);
    Vec<T> members = Load(rows->members + lane), logits = Load(rows->logits + lane);
    ForTileVecs(vecs, [&](int64_t v) FASTNEG_LAMBDA_INLINE {
      Vec<T> logit = Load(scores + r * kWidth + v * kLanes<T>);
      if constexpr (kReweights) logit = reweighting.Apply(reweighting.IsHard(own, logit), logit);
      const Vec<T> corrected = logit + Load(offsets + v * kLanes<T>);
      const Mask<T> kept = corrected != kMinusInfinity<T>;
      if constexpr (kOneReference) {
        const Vec<T> e = Exp<T>(Min<T>(highest, logit - reference));
        sum += e * Load(factors + v * kLanes<T>);
        columns.exponentials[v] += e;
      } else {
        sum += Exp<T>(Min<T>(highest, corrected - reference));
        const Vec<T> e = Exp<T>(Min<T>(highest, logit - Load(references + v * kLanes<T>)));
        columns.exponentials[v] += kept ? e : zero;
      }
      if constexpr (kCounts) {
        members += kept ? one : zero;
        logits += kept ? corrected : zero;
        columns.members[v] += kept ? one : zero;
        columns.logits[v] += kept ? logit : zero;
      }
    });
    Store(rows->exponentials + lane, sum);
    Store(rows->members + lane, members);
    Store(rows->logits + lane, logits);
  }
  T* out = static_cast<T*>(plan.block_columns) + block.slot * 3 * padded + first;
  ForTileVecs(vecs, [&](int64_t v) FASTNEG_LAMBDA_INLINE {
    Store(out + v * kLanes<T>, columns.exponentials[v]);
    Store(out + padded + v * kLanes<T>, columns.members[v]);
    Store(out + 2 * padded + v * kLanes<T>, columns.logits[v]);
  });
}

template <typename T, bool kReweights, bool kCounts, bool kOneReference>
FASTNEG_NOINLINE void SumSweep(const InBatchPlan& plan, InBatchBlock<T>* block, int64_t num_referred,
                               RowSums<T>* sums) {
  LaneSums<T> lanes;
  if constexpr (kOneReference) {
    for (int64_t r = 0; r < kMaxBlockRows; ++r) block->reference[r] = static_cast<T>(plan.reference);
  } else {
    FindReferences(plan, block, num_referred);
  }
  const int64_t count = (block->count + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
  ClearLanes<T>(count, lanes.exponentials);
  ClearLanes<T>(count, lanes.members);
  ClearLanes<T>(count, lanes.logits);
  block->ResetExclusions(plan);
  for (int64_t panel = 0; panel < plan.num_panels; ++panel) {
    ScorePanel(plan, block, panel);
    const int64_t vecs = VecsOfPanel<T>(plan.num_candidates, panel);
    for (int64_t v = 0; v < vecs; v += kTileVecs) {
      const T* scores = block->Panel(panel) + v * kLanes<T>;
      const int64_t first = panel * kWidthOfPanel<T> + v * kLanes<T>;
      SumTile<T, kReweights, kCounts, kOneReference>(plan, *block, scores, first, vecs - v, &lanes);
    }
  }
  AddLanes<T>(count, lanes.exponentials, sums->exponentials);
  AddLanes<T>(count, lanes.members, sums->members);
  AddLanes<T>(count, lanes.logits, sums->logits);
}

template <typename T, bool kOneReference>
FASTNEG_INLINE void SumSweepAsPlanned(const InBatchPlan& plan, InBatchBlock<T>* block, int64_t num_referred,
                                      RowSums<T>* sums) {
  if (plan.reweights) {
    if (plan.counts) return SumSweep<T, true, true, kOneReference>(plan, block, num_referred, sums);
    return SumSweep<T, true, false, kOneReference>(plan, block, num_referred, sums);
  }
  if (plan.counts) return SumSweep<T, false, true, kOneReference>(plan, block, num_referred, sums);
  SumSweep<T, false, false, kOneReference>(plan, block, num_referred, sums);
}

// First sweep: a block's row losses and factors, and its sums by column.
template <typename T>
void SumInBatchBlock(void* context, int64_t index) {
  const FlushDenormals flush;
  const InBatchPlan& plan = *static_cast<const InBatchPlan*>(context);
  InBatchBlock<T> block(plan, index);
  LoadInputs(plan, &block);
  LoadPositives(plan, &block);
  RowSums<T> sums;
  uint8_t* out_of_range = plan.out_of_range + plan.num_panels + index;
  *out_of_range = 0;
  if (plan.one_reference) {
    SumSweepAsPlanned<T, true>(plan, &block, 0, &sums);
    for (int64_t r = 0; r < block.count; ++r) {
      const Vec<T> own = Broadcast(block.own_logit[r]), sum = Broadcast(sums.exponentials[r]);
      if (!OneReferenceSuits<T>(plan, own, sum)) *out_of_range = 1;
    }
  } else {
    SumSweepAsPlanned<T, false>(plan, &block, 1, &sums);
    if (!ReferencesSuit<T>(block, sums.exponentials, plan.positive_in_softmax)) {
      SumSweepAsPlanned<T, false>(plan, &block, plan.num_panels, &sums);
    }
  }
  for (int64_t r = 0; r < block.count; r += kLanes<T>) {
    const int64_t valid = block.count - r < kLanes<T> ? block.count - r : kLanes<T>;
    const int64_t i = block.first + r;
    const LossTerms<T> terms = {Load(block.reference + r),   Load(block.own_logit + r), Zero<T>(),
                                Load(sums.exponentials + r), Load(sums.members + r),    Load(sums.logits + r)};
    const LossFactors<T> factors = LossOf<T>(plan, terms, T(0.5) * RowWeights<T>(plan, i, valid));
    StoreValid(static_cast<T*>(plan.row_loss) + i, factors.loss, valid);
    StoreValid(static_cast<T*>(plan.row_references) + i, terms.reference, valid);
    StoreValid(static_cast<T*>(plan.row_scales) + i, factors.scale * factors.factor, valid);
    StoreValid(static_cast<T*>(plan.row_shares) + i, factors.scale * factors.share, valid);
    StoreValid(static_cast<T*>(plan.positive_grads) + i, factors.scale * factors.positive, valid);
  }
}

// One panel's scores to gradients by logits, of rows and columns together, times what the re-weighting makes of them.
template <typename T, bool kReweights, bool kOneReference>
FASTNEG_INLINE void Coefficients(const InBatchPlan& plan, const InBatchBlock<T>& block, int64_t panel,
                                 LaneSums<T>* sums) {
  constexpr int64_t kWidth = kWidthOfPanel<T>;
  const int64_t vecs = VecsOfPanel<T>(plan.num_candidates, panel);
  const Vec<T> highest = Broadcast<T>(MathConstants<T>::kExpHighest), zero = Zero<T>();
  const Reweighting<T> reweighting(plan);
  const auto column = [&](const void* values)
                          FASTNEG_LAMBDA_INLINE { return static_cast<const T*>(values) + panel * kWidth; };
  const T *offsets = column(plan.offsets), *references = column(plan.column_references);
  const T *scales = column(plan.column_scales), *shares = column(plan.column_shares);
  const T* factors = column(plan.factors);
  T* values = block.Panel(panel);
  const bool may_be_nan = plan.panel_is_finite[panel] == 0 || plan.block_is_finite[block.index] == 0;
  for (int64_t r = 0; r < block.count; ++r) {
    const int64_t i = block.first + r;
    const Vec<T> own = Broadcast(block.own[r]);
    const T reference = kOneReference ? static_cast<T>(plan.reference) : static_cast<const T*>(plan.row_references)[i];
    const T scale = static_cast<const T*>(plan.row_scales)[i], share = static_cast<const T*>(plan.row_shares)[i];
    Vec<T> hard_sum{}, hard_scores{};
    ForPanelVecs(vecs, [&](int64_t v) FASTNEG_LAMBDA_INLINE {
      T* value = values + r * kWidth + v * kLanes<T>;
      const Vec<T> score = Load(value);
      Vec<T> logit = score;
      Mask<T> hard{};
      if constexpr (kReweights) {
        hard = reweighting.IsHard(own, score);
        logit = reweighting.Apply(hard, score);
      }
      const Vec<T> corrected = logit + Load(offsets + v * kLanes<T>);
      Vec<T> g = Load(shares + v * kLanes<T>) + share;
      if constexpr (kOneReference) {
        const Vec<T> e = Exp<T>(Min<T>(highest, logit - reference));
        g += e * (Load(factors + v * kLanes<T>) * scale + Load(scales + v * kLanes<T>));
      } else {
        const Vec<T> by_row = Exp<T>(Min<T>(highest, corrected - reference));
        const Vec<T> by_column = Exp<T>(Min<T>(highest, logit - Load(references + v * kLanes<T>)));
        g += by_row * scale + by_column * Load(scales + v * kLanes<T>);
      }
      g = corrected == kMinusInfinity<T> ? zero : g;
      if (may_be_nan && scale == T(0) && share == T(0)) {
        // What neither the row nor the column counts adds nothing, NaN included.
        const Mask<T> unscaled = Load(scales + v * kLanes<T>) == T(0);
        const Mask<T> unshared = Load(shares + v * kLanes<T>) == T(0);
        g = (unscaled & unshared) ? zero : g;
      }
      if constexpr (kReweights) {
        const Vec<T> hard_g = hard ? g : zero;
        hard_sum += hard_g;
        hard_scores += hard_g * (hard ? score : zero);
        g = hard ? reweighting.t * g : g;
      }
      Store(value, g);
    });
    if constexpr (kReweights) {
      const int64_t lane = r * kLanes<T>;
      Store(sums->hard + lane, Load(sums->hard + lane) + hard_sum);
      Store(sums->hard_scores + lane, Load(sums->hard_scores + lane) + hard_scores);
    }
  }
  const int64_t begin = panel * kWidth - block.first;
  for (int64_t r = begin < 0 ? 0 : begin; r < block.count && r < begin + kWidth; ++r) {
    values[r * kWidth + r - begin] = static_cast<const T*>(plan.positive_grads)[block.first + r];
  }
}

template <typename T, bool kReweights, bool kOneReference>
FASTNEG_NOINLINE void GradSweep(const InBatchPlan& plan, InBatchBlock<T>* block) {
  LaneSums<T> lanes;
  ClearLanes<T>(kMaxBlockRows, lanes.hard);
  ClearLanes<T>(kMaxBlockRows, lanes.hard_scores);
  block->ResetExclusions(plan);
  for (int64_t panel = 0; panel < plan.num_panels; ++panel) {
    if (plan.scores_again) ScorePanel(plan, block, panel);
    Coefficients<T, kReweights, kOneReference>(plan, *block, panel, &lanes);
    AddInputGrads(plan, *block, panel);
  }
  RowSums<T> sums;
  AddLanes<T>(kMaxBlockRows, lanes.hard, sums.hard);
  AddLanes<T>(kMaxBlockRows, lanes.hard_scores, sums.hard_scores);
  for (int64_t r = 0; r < block->count; ++r) {
    const T product = FinishQueryGrad<T>(plan, *block, r, {T(1), T(0)});
    if (plan.row_scalars == nullptr) continue;
    const T positive = static_cast<const T*>(plan.positive_grads)[block->first + r];
    StoreScalars<T>(plan, block->first + r, product, positive, sums.hard[r], sums.hard_scores[r]);
  }
}

// Second sweep: the query gradients of a block, and the coefficients that the candidates' are made of.
template <typename T>
void GradInBatchBlock(void* context, int64_t index) {
  const FlushDenormals flush;
  const InBatchPlan& plan = *static_cast<const InBatchPlan*>(context);
  InBatchBlock<T> block(plan, index);
  LoadInputs(plan, &block);
  LoadPositives(plan, &block);
  if (plan.one_reference) {
    if (plan.reweights) return GradSweep<T, true, true>(plan, &block);
    return GradSweep<T, false, true>(plan, &block);
  }
  if (plan.reweights) return GradSweep<T, true, false>(plan, &block);
  GradSweep<T, false, false>(plan, &block);
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SHARED_IN_BATCH_TWO_WAYS_H_
