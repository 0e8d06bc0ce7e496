// Second pass of the in-batch loss where queries alone are classified: a block of rows against all candidates, to the
// losses and the query gradients.
#ifndef FASTNEG_CORE_CPU_SHARED_IN_BATCH_ROWS_H_
#define FASTNEG_CORE_CPU_SHARED_IN_BATCH_ROWS_H_

#include "core/cpu/shared/in_batch_grads.h"
#include "core/cpu/shared/in_batch_losses.h"
#include "core/cpu/shared/in_batch_references.h"
#include "core/cpu/shared/in_batch_sums.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

// Where a plan transforms exponentials later, the sign tells which are of hard negatives, and infinity marks what is no
// negative.
template <typename T>
FASTNEG_INLINE Vec<T> Marked(Vec<T> e, Mask<T> hard, Mask<T> kept) {
  const Vec<T> none = -kMinusInfinity<T>;
  const Vec<T> marked = hard ? -e : e;
  return kept ? marked : none;
}

// One panel's scores to exponentials relative to the rows' references. Logits so large that they would overflow are cut
// where the sum tells of it.
template <typename T, bool kReweights, bool kCounts>
FASTNEG_INLINE void Exponentiate(const InBatchPlan& plan, const InBatchBlock<T>& block, int64_t panel,
                                 LaneSums<T>* sums) {
  if constexpr (!kReweights && !kCounts) return ExponentiateScores<T>(plan, block, panel, sums->exponentials);
  constexpr int64_t kWidth = kWidthOfPanel<T>;
  const int64_t vecs = VecsOfPanel<T>(plan.num_candidates, panel);
  const Vec<T> highest = Broadcast<T>(MathConstants<T>::kExpHighest);
  const Reweighting<T> reweighting(plan);
  const T* offsets = static_cast<const T*>(plan.offsets) + panel * kWidth;
  const bool transforms = plan.transforms;
  T* values = block.Panel(panel);
  for (int64_t r = 0; r < block.count; ++r) {
    const Vec<T> reference = Broadcast(block.reference[r]), own = Broadcast(block.own[r]);
    const int64_t lane = r * kLanes<T>;
    Vec<T> sum = Load(sums->exponentials + lane);
    Vec<T> members{}, logits{}, hard_sum{}, hard_scores{}, hard_members{}, plain_hard_scores{};
    ForPanelVecs(vecs, [&](int64_t v) FASTNEG_LAMBDA_INLINE {
      T* value = values + r * kWidth + v * kLanes<T>;
      const Vec<T> score = Load(value);
      Vec<T> logit = score;
      Mask<T> hard{};
      if constexpr (kReweights) {
        hard = reweighting.IsHard(own, score);
        logit = reweighting.Apply(hard, score) + Load(offsets + v * kLanes<T>);
      }
      Vec<T> e = Exp<T>(Min<T>(highest, logit - reference));
      sum += e;
      const Vec<T> zero = Zero<T>();
      if constexpr (kReweights) {
        const Vec<T> hard_e = hard ? e : zero;
        hard_sum += hard_e;
        hard_scores += hard_e * (hard ? score : zero);
      }
      if constexpr (kCounts) {
        const Mask<T> kept = logit != kMinusInfinity<T>;
        const Vec<T> one = Broadcast(T(1));
        members += kept ? one : zero;
        logits += kept ? logit : zero;
        if constexpr (kReweights) {
          hard_members += kept & hard ? one : zero;
          plain_hard_scores += kept & hard ? score : zero;
        }
        if (transforms) {
          Store(value, Marked<T>(e, hard, kept));
          return;
        }
      }
      if constexpr (kReweights) e = hard ? reweighting.t * e : e;
      Store(value, e);
    });
    Store(sums->exponentials + lane, sum);
    const auto add = [&](T* lanes, Vec<T> v) FASTNEG_LAMBDA_INLINE { Store(lanes + lane, Load(lanes + lane) + v); };
    if constexpr (kReweights) {
      add(sums->hard, hard_sum);
      add(sums->hard_scores, hard_scores);
    }
    if constexpr (kCounts) {
      add(sums->members, members);
      add(sums->logits, logits);
      if constexpr (kReweights) {
        add(sums->hard_members, hard_members);
        add(sums->plain_hard_scores, plain_hard_scores);
      }
    }
  }
}

// All panels, and the sums over the negatives. References come from the first `num_referred` panels.
template <bool kReweights, bool kCounts, typename Block, typename T = typename Block::Compute>
FASTNEG_NOINLINE void SweepInBatch(const InBatchPlan& plan, Block* block, int64_t num_referred, RowSums<T>* sums) {
  LaneSums<T> lanes;
  const int64_t count = (block->count + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
  ClearLanes<T>(count, lanes.exponentials);
  ClearLanes<T>(count, lanes.members);
  ClearLanes<T>(count, lanes.logits);
  ClearLanes<T>(count, lanes.hard);
  ClearLanes<T>(count, lanes.hard_scores);
  ClearLanes<T>(count, lanes.hard_members);
  ClearLanes<T>(count, lanes.plain_hard_scores);
  SweepPanels(plan, block, num_referred, [&](int64_t panel) FASTNEG_LAMBDA_INLINE {
    Exponentiate<T, kReweights, kCounts>(plan, *block, panel, &lanes);
  });
  AddLanes<T>(count, lanes.exponentials, sums->exponentials);
  AddLanes<T>(count, lanes.members, sums->members);
  AddLanes<T>(count, lanes.logits, sums->logits);
  AddLanes<T>(count, lanes.hard, sums->hard);
  AddLanes<T>(count, lanes.hard_scores, sums->hard_scores);
  AddLanes<T>(count, lanes.hard_members, sums->hard_members);
  AddLanes<T>(count, lanes.plain_hard_scores, sums->plain_hard_scores);
}

template <typename Block, typename T = typename Block::Compute>
FASTNEG_INLINE void SweepAsPlanned(const InBatchPlan& plan, Block* block, int64_t num_referred, RowSums<T>* sums) {
  if constexpr (Block::kHasAllOptions) {
    if (plan.reweights) {
      if (plan.counts) return SweepInBatch<true, true>(plan, block, num_referred, sums);
      return SweepInBatch<true, false>(plan, block, num_referred, sums);
    }
  }
  if (plan.counts) return SweepInBatch<false, true>(plan, block, num_referred, sums);
  SweepInBatch<false, false>(plan, block, num_referred, sums);
}

// What the row losses of a block make of its exponentials, as LossFactors by row.
template <typename T>
struct RowFactors {
  T scale[kMaxBlockRows];
  T positive[kMaxBlockRows];
  T factor[kMaxBlockRows];
  T share[kMaxBlockRows];

  FASTNEG_INLINE void Set(int64_t r, const LossFactors<T>& factors) {
    Store(scale + r, factors.scale);
    Store(positive + r, factors.positive);
    Store(factor + r, factors.factor);
    Store(share + r, factors.share);
  }
};

// Marked exponentials of one panel to coefficients.
template <typename T>
FASTNEG_INLINE void Transform(const InBatchPlan& plan, const InBatchBlock<T>& block, const RowFactors<T>& factors,
                              int64_t panel) {
  constexpr int64_t kWidth = kWidthOfPanel<T>;
  const int64_t vecs = VecsOfPanel<T>(plan.num_candidates, panel);
  const T t = static_cast<T>(plan.t);
  T* values = block.Panel(panel);
  for (int64_t r = 0; r < block.count; ++r) {
    const Vec<T> factor = Broadcast(factors.factor[r]), share = Broadcast(factors.share[r]);
    ForPanelVecs(vecs, [&](int64_t v) FASTNEG_LAMBDA_INLINE {
      T* value = values + r * kWidth + v * kLanes<T>;
      const Vec<T> marked = Load(value);
      const Mask<T> negative = reinterpret_cast<Mask<T>>(marked) < 0;
      const Vec<T> coefficient = (negative ? -marked : marked) * factor + share;
      const Vec<T> changed = negative ? t * coefficient : coefficient;
      Store(value, marked == -kMinusInfinity<T> ? Zero<T>() : changed);
    });
  }
}

// What a row adds to the gradients of the scalars. `product` as FinishQueryGrad returns it.
template <typename T>
FASTNEG_INLINE void StoreScalars(const InBatchPlan& plan, int64_t row, T product, T positive, T hard, T hard_scores) {
  const T per_temperature = static_cast<T>(1.0 / plan.temperature);
  const T logits = product + static_cast<T>((plan.t - 1.0) / plan.temperature) * hard -
                   static_cast<T>(plan.margin / plan.temperature) * positive;
  T* scalars = static_cast<T*>(plan.row_scalars) + row;
  scalars[0] = -logits * per_temperature;
  scalars[plan.batch_size] = -positive * per_temperature;
  scalars[2 * plan.batch_size] = hard_scores + hard * per_temperature;
}

template <typename Block, typename T = typename Block::Compute>
FASTNEG_NOINLINE void FinishGrads(const InBatchPlan& plan, const Block& block, const RowSums<T>& sums,
                                  const RowFactors<T>& factors) {
  if constexpr (Block::kHasAllOptions) {
    if (plan.transforms) {
      for (int64_t panel = 0; panel < plan.num_panels; ++panel) {
        Transform(plan, block, factors, panel);
        AddInputGrads(plan, block, panel);
      }
    }
  }
  for (int64_t r = 0; r < block.count; ++r) {
    const T scale = factors.scale[r], positive = scale * factors.positive[r];
    const T product = FinishQueryGrad<T>(plan, block, r, {scale, positive});
    if (plan.row_scalars != nullptr) {
      T hard = T(0), hard_scores = T(0);
      if (plan.reweights && scale != T(0)) {
        hard = factors.factor[r] * sums.hard[r];
        hard_scores = factors.factor[r] * sums.hard_scores[r];
        if (plan.transforms) {
          hard += factors.share[r] * sums.hard_members[r];
          hard_scores += factors.share[r] * sums.plain_hard_scores[r];
        }
      }
      StoreScalars<T>(plan, block.first + r, product, positive, scale * hard, scale * hard_scores);
    }
    SetCoefficient(plan, block, r, block.positive[r], factors.positive[r]);
    const T sum = sums.exponentials[r];
    if (scale == T(0) && !(sum - sum == T(0))) ClearCoefficients(plan, block, r);
  }
  FinishInputs(plan, block);
}

template <typename Block>
void ScoreInBatchBlock(void* context, int64_t index) {
  using T = typename Block::Compute;
  const FlushDenormals flush;
  const InBatchPlan& plan = *static_cast<const InBatchPlan*>(context);
  Block block(plan, index);
  LoadInputs(plan, &block);
  LoadPositives(plan, &block);
  RowSums<T> sums;
  // Some of the logits are most often as good a reference as all, and save a pass.
  const bool selects = plan.num_hard_negatives > 0;
  SweepAsPlanned(plan, &block, selects ? plan.num_panels : 1, &sums);
  if (!selects && !ReferencesSuit<T>(block, sums.exponentials, plan.positive_in_softmax)) {
    SweepAsPlanned(plan, &block, plan.num_panels, &sums);
  }
  RowFactors<T> factors;
  T* loss = static_cast<T*>(plan.row_loss) + block.first;
  for (int64_t r = 0; r < block.count; r += kLanes<T>) {
    const int64_t valid = block.count - r < kLanes<T> ? block.count - r : kLanes<T>;
    const LossTerms<T> terms = {Load(block.reference + r),   Load(block.own_logit + r), Load(block.correction + r),
                                Load(sums.exponentials + r), Load(sums.members + r),    Load(sums.logits + r)};
    const LossFactors<T> of_rows = LossOf<T>(plan, terms, RowWeights<T>(plan, block.first + r, valid));
    factors.Set(r, of_rows);
    StoreValid(loss + r, of_rows.loss, valid);
  }
  if (plan.grad_inputs != nullptr) FinishGrads(plan, block, sums, factors);
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SHARED_IN_BATCH_ROWS_H_
