// A block of rows of sampled_softmax_loss: logits of their positives, and the accidental hits among their scores.
#ifndef FASTNEG_CORE_CPU_SHARED_SAMPLED_BLOCK_H_
#define FASTNEG_CORE_CPU_SHARED_SAMPLED_BLOCK_H_

#include "core/cpu/shared/row_block.h"
#include "core/cpu/shared/sampled_candidates.h"
#include "core/cpu/shared/sampled_plan.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

template <typename T>
struct SampledBlock : RowBlock<T> {
  T* true_logits;  // [num_true, block_rows]
  T* scales;
  int32_t* first_hit;  // Of each panel the first entry of `label_rows` that hits it;
  int32_t* next_hit;   // of each entry the next.

  SampledBlock(const SampledPlan& plan, int64_t block) : RowBlock<T>(plan, block) {
    const int64_t row = this->slot * plan.block_rows;
    true_logits = static_cast<T*>(plan.block_true) + row * plan.num_true;
    scales = static_cast<T*>(plan.block_scales) + row;
    if (plan.last_sampled == nullptr) return;
    first_hit = plan.block_first_hit + this->slot * plan.num_panels;
    next_hit = plan.block_next_hit + row * plan.num_true;
  }

  // Lists the accidental hits by panel.
  void ResetExclusions(const SampledPlan& plan) {
    if (plan.last_sampled == nullptr) return;
    const int32_t* labels = plan.label_rows + this->first * plan.num_true;
    for (int64_t panel = 0; panel < plan.num_panels; ++panel) first_hit[panel] = -1;
    for (int64_t entry = 0; entry < this->count * plan.num_true; ++entry) {
      const int64_t hit = plan.last_sampled[labels[entry]];
      if (hit < 0) continue;
      int32_t* head = first_hit + hit / kWidthOfPanel<T>;
      next_hit[entry] = *head;
      *head = static_cast<int32_t>(entry);
    }
  }

  FASTNEG_INLINE void Exclude(const SampledPlan& plan, int64_t panel) {
    if (plan.last_sampled == nullptr) return;
    const int32_t* labels = plan.label_rows + this->first * plan.num_true;
    for (int64_t entry = first_hit[panel]; entry >= 0; entry = next_hit[entry]) {
      const int64_t lane = plan.last_sampled[labels[entry]] % kWidthOfPanel<T>;
      this->Panel(panel)[entry / plan.num_true * kWidthOfPanel<T> + lane] = -T(__builtin_huge_val());
    }
  }

  static constexpr bool Selects(const SampledPlan&) { return false; }
  void KeepSelected(const SampledPlan&) {}

  // The largest logit, from the negatives' and those of kLanes rows' positives.
  FASTNEG_INLINE Vec<T> ReferenceOf(const SampledPlan& plan, int64_t r, Vec<T> maximum) const {
    for (int64_t t = 0; t < plan.num_true; ++t) maximum = Max<T>(Load(true_logits + t * plan.block_rows + r), maximum);
    return maximum;
  }
};

// The logits of the positives.
template <typename T>
FASTNEG_NOINLINE void LoadTrueLogits(const SampledPlan& plan, const SampledBlock<T>& block) {
  const int64_t dim = plan.embedding_dim, num_true = plan.num_true;
  const T* biases = static_cast<const T*>(plan.biases);
  const T* counts = static_cast<const T*>(plan.true_expected_count) + block.first * num_true;
  const int32_t* labels = plan.label_rows + block.first * num_true;
  WithStorage<T>(plan.dtype, [&](auto* storage) FASTNEG_LAMBDA_INLINE {
    using Storage = __typeof__(*storage);
    for (int64_t first = 0; first < block.count; first += kLanes<T>) {
      const int64_t count = block.count - first < kLanes<T> ? block.count - first : kLanes<T>;
      for (int64_t t = 0; t < num_true; ++t) {
        Vec<T> dots[kLanes<T>] = {};
        T others[kLanes<T>], expected[kLanes<T>];
        for (int64_t l = 0; l < kLanes<T>; ++l) {
          others[l] = T(0);
          expected[l] = T(1);
          if (l >= count) continue;
          const int64_t entry = (first + l) * num_true + t;
          const int64_t row = labels[entry];
          expected[l] = counts[entry];
          if (biases != nullptr) others[l] = biases[row];
          Storage* candidate = static_cast<Storage*>(plan.table) + row * plan.table_stride;
          const T* input = block.inputs + (first + l) * plan.dim_stride;
          Vec<T> dot = Zero<T>();
          ForChunks<T>(dim, [&](int64_t d, int64_t valid) FASTNEG_LAMBDA_INLINE {
            dot += Load(input + d) * LoadWidened<T>(candidate + d, valid);
          });
          dots[l] = dot;
        }
        const Vec<T> logit = TransposedSums<T>(dots) + Load(others) - LogOfCount<T>(Load(expected));
        Store(block.true_logits + t * plan.block_rows + first, logit);
      }
    }
  });
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SHARED_SAMPLED_BLOCK_H_
