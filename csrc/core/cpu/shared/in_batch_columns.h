// The columns of the in-batch loss where candidates are classified too: their sums, references, losses and factors.
#ifndef FASTNEG_CORE_CPU_SHARED_IN_BATCH_COLUMNS_H_
#define FASTNEG_CORE_CPU_SHARED_IN_BATCH_COLUMNS_H_

#include "core/cpu/shared/in_batch_block.h"
#include "core/cpu/shared/in_batch_losses.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

// Whether what is relative to the one reference neither overflows nor has lost digits to underflow. The positive's
// share is part of a sum where it is in the softmax. False also for NaN.
template <typename T>
FASTNEG_INLINE bool OneReferenceSuits(const InBatchPlan& plan, Vec<T> own, Vec<T> sum) {
  constexpr T kLargest = T(1e30), kSmallest = T(1e-24);
  if (plan.positive_in_softmax) sum += Exp<T>(own - static_cast<T>(plan.reference));
  return !Any<T>(~((sum <= kLargest) & (sum >= kSmallest)));
}

// Adds a round's sums by column, in order of the blocks. index: round * num_panels + panel.
template <typename T>
void MergeColumns(void* context, int64_t index) {
  const FlushDenormals flush;
  const InBatchPlan& plan = *static_cast<const InBatchPlan*>(context);
  constexpr int64_t kWidth = kWidthOfPanel<T>;
  const int64_t padded = plan.num_panels * kWidth;
  const PanelOfRound part(plan, index);
  const int64_t vecs = VecsOfPanel<T>(plan.num_candidates, part.panel);
  for (int64_t kind = 0; kind < 3; ++kind) {
    for (int64_t v = 0; v < vecs; ++v) {
      const int64_t place = kind * padded + part.panel * kWidth + v * kLanes<T>;
      T* out = static_cast<T*>(plan.column_sums) + place;
      Vec<T> sum = part.begin == 0 ? Zero<T>() : Load(out);
      for (int64_t b = part.begin; b < part.end; ++b) {
        sum += Load(static_cast<const T*>(plan.block_columns) + (b - part.begin) * 3 * padded + place);
      }
      Store(out, sum);
    }
  }
}

// The largest logits of a block's columns, into the place of their sums.
template <typename T>
void MaximaOfColumns(void* context, int64_t index) {
  const FlushDenormals flush;
  const InBatchPlan& plan = *static_cast<const InBatchPlan*>(context);
  constexpr int64_t kWidth = kWidthOfPanel<T>;
  const Reweighting<T> reweighting(plan);
  InBatchBlock<T> block(plan, index);
  LoadInputs(plan, &block);
  LoadPositives(plan, &block);
  block.ResetExclusions(plan);
  for (int64_t panel = 0; panel < plan.num_panels; ++panel) {
    ScorePanel(plan, &block, panel);
    const int64_t vecs = VecsOfPanel<T>(plan.num_candidates, panel);
    T* out = static_cast<T*>(plan.block_columns) + block.slot * 3 * plan.num_panels * kWidth + panel * kWidth;
    for (int64_t v = 0; v < vecs; ++v) {
      const Vec<T> offset = Load(static_cast<const T*>(plan.offsets) + panel * kWidth + v * kLanes<T>);
      Vec<T> maximum = kMinusInfinity<T>;
      for (int64_t r = 0; r < block.count; ++r) {
        Vec<T> logit = Load(block.Panel(panel) + r * kWidth + v * kLanes<T>);
        const Vec<T> own = Broadcast(block.own[r]);
        if (plan.reweights) logit = reweighting.Apply(reweighting.IsHard(own, logit), logit);
        maximum = Max<T>(offset == kMinusInfinity<T> ? offset : logit, maximum);
      }
      Store(out + v * kLanes<T>, maximum);
    }
  }
}

// References from the maxima of all blocks of a round. index: round * num_panels + panel.
template <typename T>
void MergeMaxima(void* context, int64_t index) {
  const FlushDenormals flush;
  const InBatchPlan& plan = *static_cast<const InBatchPlan*>(context);
  constexpr int64_t kWidth = kWidthOfPanel<T>;
  const int64_t padded = plan.num_panels * kWidth;
  const PanelOfRound part(plan, index);
  const int64_t vecs = VecsOfPanel<T>(plan.num_candidates, part.panel);
  T* references = static_cast<T*>(plan.column_references) + part.panel * kWidth;
  for (int64_t v = 0; v < vecs; ++v) {
    // At first the logits of the positives stand here.
    Vec<T> maximum =
        part.begin == 0 && !plan.positive_in_softmax ? kMinusInfinity<T> : Load(references + v * kLanes<T>);
    for (int64_t b = part.begin; b < part.end; ++b) {
      const T* of_block =
          static_cast<const T*>(plan.block_columns) + (b - part.begin) * 3 * padded + part.panel * kWidth;
      maximum = Max<T>(Load(of_block + v * kLanes<T>), maximum);
    }
    if (part.end == plan.num_blocks) maximum = maximum == kMinusInfinity<T> ? Zero<T>() : maximum;
    Store(references + v * kLanes<T>, maximum);
  }
}

// Losses of a panel's columns, and their factors. Tells whether the references suited.
template <typename T>
void FinishColumns(void* context, int64_t panel) {
  const FlushDenormals flush;
  const InBatchPlan& plan = *static_cast<const InBatchPlan*>(context);
  constexpr int64_t kWidth = kWidthOfPanel<T>;
  constexpr T kLargest = T(1 << 30);
  const int64_t padded = plan.num_panels * kWidth;
  const T* sums = static_cast<const T*>(plan.column_sums);
  bool suit = true;
  for (int64_t j = panel * kWidth; j < (panel + 1) * kWidth; j += kLanes<T>) {
    T* scales = static_cast<T*>(plan.column_scales) + j;
    T* shares = static_cast<T*>(plan.column_shares) + j;
    if (j >= plan.batch_size) {
      Store(scales, Zero<T>());
      Store(shares, Zero<T>());
      continue;
    }
    const int64_t valid = plan.batch_size - j < kLanes<T> ? plan.batch_size - j : kLanes<T>;
    const Vec<T> own = LoadValid(static_cast<const T*>(plan.own_logits) + j, valid);
    Vec<T> reference = Load(static_cast<const T*>(plan.column_references) + j), others = Load(sums + j);
    if (plan.one_reference) {
      reference = Broadcast(static_cast<T>(plan.reference));
      others = Load(static_cast<const T*>(plan.factors) + j) == T(0) ? Zero<T>() : others;  // Masked.
    }
    const LossTerms<T> terms = {
        reference, own, Zero<T>(), others, Load(sums + padded + j), Load(sums + 2 * padded + j)};
    const LossFactors<T> factors = LossOf<T>(plan, terms, T(0.5) * RowWeights<T>(plan, j, valid));
    T* loss = static_cast<T*>(plan.row_loss) + j;
    T* positive = static_cast<T*>(plan.positive_grads) + j;
    StoreValid(loss, T(0.5) * (LoadValid(loss, valid) + factors.loss), valid);
    StoreValid(positive, LoadValid(positive, valid) + factors.scale * factors.positive, valid);
    StorePartial(scales, factors.scale * factors.factor, valid);
    StorePartial(shares, factors.scale * factors.share, valid);
    for (int64_t l = valid; l < kLanes<T>; ++l) scales[l] = shares[l] = T(0);
    for (int64_t l = 0; l < valid; ++l) {
      const T sum = others[l];
      if (plan.one_reference) {
        suit &= OneReferenceSuits<T>(plan, Broadcast(own[l]), Broadcast(sum));
      } else {
        suit &= sum <= kLargest && (plan.positive_in_softmax || sum >= T(0.5));
      }
    }
  }
  plan.out_of_range[panel] = !suit;
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SHARED_IN_BATCH_COLUMNS_H_
