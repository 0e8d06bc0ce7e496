// Second pass of sampled_softmax_loss: a block of rows against all candidates, to the losses and the input gradients.
#ifndef FASTNEG_CORE_CPU_SHARED_SAMPLED_LOSSES_H_
#define FASTNEG_CORE_CPU_SHARED_SAMPLED_LOSSES_H_

#include "core/cpu/runtime/flush_denormals.h"
#include "core/cpu/shared/sampled_block.h"
#include "core/cpu/shared/sweep.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

// As SweepInBatch, with plain sums.
template <typename T>
FASTNEG_NOINLINE void SweepSampled(const SampledPlan& plan, SampledBlock<T>* block, int64_t num_referred, T* sums) {
  T lanes[kMaxBlockRows * kLanes<T>];
  const int64_t count = (block->count + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
  ClearLanes<T>(count, lanes);
  SweepPanels(plan, block, num_referred,
              [&](int64_t panel) FASTNEG_LAMBDA_INLINE { ExponentiateScores<T>(plan, *block, panel, lanes); });
  AddLanes<T>(count, lanes, sums);
}

// Losses, d loss / d logit of the positives (with the row's weight), and what a row's exponentials are to be scaled by.
template <typename T>
FASTNEG_INLINE void FinishRows(const SampledPlan& plan, const SampledBlock<T>& block, const T* sums) {
  const int64_t num_true = plan.num_true;
  T* loss = static_cast<T*>(plan.loss);
  T* coefficients = static_cast<T*>(plan.true_coefficients);
  for (int64_t r = 0; r < block.count; r += kLanes<T>) {
    const int64_t valid = block.count - r < kLanes<T> ? block.count - r : kLanes<T>;
    const Vec<T> maximum = LoadValid(block.reference + r, valid), others = LoadValid(sums + r, valid);
    Vec<T> sum = others, mean = Zero<T>();
    for (int64_t t = 0; t < num_true; ++t) {
      const Vec<T> logit = LoadValid(block.true_logits + t * plan.block_rows + r, valid);
      sum += Exp<T>(logit - maximum);
      mean += logit - maximum;
    }
    const T share = T(1) / static_cast<T>(num_true);
    Vec<T> row_loss = Log<T>(sum) - mean * share;
    // A small loss may not come from a difference: where the only positive has the largest logit, sum = 1 + others.
    if (num_true == 1) row_loss = mean == T(0) ? Log1p<T>(others) : row_loss;
    if (loss != nullptr) StoreValid(loss + block.first + r, row_loss, valid);
    if (coefficients == nullptr) continue;

    const Vec<T> weight = plan.row_weights == nullptr
                              ? Broadcast(T(1))
                              : LoadValid(static_cast<const T*>(plan.row_weights) + block.first + r, valid);
    const auto counts = weight != T(0);  // Other rows get coefficients of 0 whatever they hold.
    const Vec<T> scale = counts ? weight / sum : Zero<T>();
    StoreValid(block.scales + r, scale, valid);
    for (int64_t t = 0; t < num_true; ++t) {
      const Vec<T> logit = LoadValid(block.true_logits + t * plan.block_rows + r, valid);
      Vec<T> c = num_true == 1 ? -others * scale : Exp<T>(logit - maximum) * scale - weight * share;
      c = counts ? c : Zero<T>();
      for (int64_t l = 0; l < valid; ++l) coefficients[(block.first + r + l) * num_true + t] = c[l];
    }
  }
}

// Takes rows of weight 0 out of what the gradients are made of: they may hold NaN, and 0 times NaN is not 0.
template <typename T>
FASTNEG_INLINE void ClearUnweightedRows(const SampledPlan& plan, const SampledBlock<T>& block) {
  const T* weights = static_cast<const T*>(plan.row_weights) + block.first;
  for (int64_t r = 0; r < block.count; ++r) {
    if (weights[r] != T(0)) continue;
    for (int64_t panel = 0; panel < plan.num_panels; ++panel) {
      T* exponentials = block.Panel(panel) + r * kWidthOfPanel<T>;
      for (int64_t s = 0; s < kWidthOfPanel<T>; s += kLanes<T>) Store(exponentials + s, Zero<T>());
    }
    for (int64_t d = 0; d < plan.dim_stride; d += kLanes<T>) Store(block.inputs + r * plan.dim_stride + d, Zero<T>());
    for (int64_t d = 0; d < block.grads_stride; d += kLanes<T>)
      Store(block.grads + r * block.grads_stride + d, Zero<T>());
  }
}

// From raw sums to input gradients: scaled, and with what the positives add.
template <typename T>
FASTNEG_INLINE void FinishInputGrads(const SampledPlan& plan, const SampledBlock<T>& block) {
  const int64_t dim = plan.embedding_dim, num_true = plan.num_true;
  T* out = static_cast<T*>(plan.grad_inputs) + block.first * dim;
  WithStorage<T>(plan.dtype, [&](auto* storage) FASTNEG_LAMBDA_INLINE {
    using Storage = __typeof__(*storage);
    for (int64_t r = 0; r < block.count; ++r) {
      const int64_t first = (block.first + r) * num_true;
      const T* coefficients = static_cast<const T*>(plan.true_coefficients) + first;
      const T scale = block.scales[r];
      ForChunks<T>(dim, [&](int64_t d, int64_t valid) FASTNEG_LAMBDA_INLINE {
        Vec<T> grad = Load(block.grads + r * block.grads_stride + d) * scale;
        for (int64_t t = 0; t < num_true; ++t) {
          if (coefficients[t] == T(0)) continue;  // Of a row without weight, whose labels may hold NaN.
          Storage* row = static_cast<Storage*>(plan.table) + plan.label_rows[first + t] * plan.table_stride;
          grad += coefficients[t] * LoadWidened<T>(row + d, valid);
        }
        StoreValid(out + r * dim + d, grad, valid);
      });
    }
  });
}

template <typename T>
void ScoreSampledBlock(void* context, int64_t index) {
  const FlushDenormals flush;
  const SampledPlan& plan = *static_cast<const SampledPlan*>(context);
  SampledBlock<T> block(plan, index);
  T sums[kMaxBlockRows];
  LoadInputs<T>(plan, &block);
  LoadTrueLogits<T>(plan, block);
  // Some of the logits are most often as good a reference as all, and save a pass.
  SweepSampled<T>(plan, &block, 1, sums);
  if (!ReferencesSuit<T>(block, sums, true)) SweepSampled<T>(plan, &block, plan.num_panels, sums);
  FinishRows<T>(plan, block, sums);
  if (plan.row_weights != nullptr) ClearUnweightedRows(plan, block);
  if (plan.grad_inputs != nullptr) FinishInputGrads<T>(plan, block);
  if (plan.grad_table == nullptr) return;
  // What the candidates are to get of these rows, so that their pass can use raw exponentials.
  for (int64_t r = 0; r < block.count; ++r) {
    T* row = block.inputs + r * plan.dim_stride;
    for (int64_t d = 0; d < plan.dim_stride; d += kLanes<T>) Store(row + d, Load(row + d) * block.scales[r]);
  }
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SHARED_SAMPLED_LOSSES_H_
