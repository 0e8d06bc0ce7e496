// Last passes of sampled_softmax_loss: what the candidates get of each round of rows, and then what each row of the
// table gets as a candidate and as a label. No two tasks write the same row, so the result does not depend on who runs
// what.
#ifndef FASTNEG_CORE_CPU_SHARED_SAMPLED_GRADS_H_
#define FASTNEG_CORE_CPU_SHARED_SAMPLED_GRADS_H_

#include "core/cpu/runtime/flush_denormals.h"
#include "core/cpu/shared/sampled_block.h"
#include "core/cpu/shared/sweep.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

template <typename T>
void SampledCandidateGrads(void* context, int64_t index) {
  const FlushDenormals flush;
  const SampledPlan& plan = *static_cast<const SampledPlan*>(context);
  constexpr int64_t kWidth = kWidthOfPanel<T>;
  const PanelOfRound part(plan, index);
  AddCandidateGrads<T>(plan, part);
  if (plan.grad_offsets == nullptr) return;
  T* grad_offsets = static_cast<T*>(plan.grad_offsets) + part.panel * kWidth;
  const int64_t vecs = VecsOfPanel<T>(plan.num_candidates, part.panel);
  for (int64_t b = part.begin; b < part.end; ++b) {
    const SampledBlock<T> block(plan, b);
    for (int64_t v = 0; v < vecs; ++v) {
      Vec<T> sum = Zero<T>();
      for (int64_t r = 0; r < block.count; ++r) {
        sum += Load(block.Panel(part.panel) + r * kWidth + v * kLanes<T>) * block.scales[r];
      }
      T* out = grad_offsets + v * kLanes<T>;
      Store(out, b == 0 ? sum : Load(out) + sum);
    }
  }
}

template <typename T>
void ScatterTableGrads(void* context, int64_t task) {
  const FlushDenormals flush;
  const SampledPlan& plan = *static_cast<const SampledPlan*>(context);
  const int64_t dim = plan.embedding_dim, num_true = plan.num_true;
  const int64_t num_labels = plan.batch_size * num_true;
  const int64_t begin = task * plan.scatter_rows;
  const int64_t end = begin + plan.scatter_rows < plan.num_table_rows ? begin + plan.scatter_rows : plan.num_table_rows;
  const T* coefficients = static_cast<const T*>(plan.true_coefficients);
  const T* grad_rows = static_cast<const T*>(plan.grad_rows);
  WithStorage<T>(plan.dtype, [&](auto* storage) FASTNEG_LAMBDA_INLINE {
    using Storage = __typeof__(*storage);
    for (int64_t u = begin; u < end; ++u) {
      const int32_t* from = plan.occurrences + plan.first_occurrence[u];
      const int32_t* to = plan.occurrences + plan.first_occurrence[u + 1];
      T* out = static_cast<T*>(plan.grad_table) + u * dim;
      ForChunks<T>(dim, [&](int64_t d, int64_t valid) FASTNEG_LAMBDA_INLINE {
        Vec<T> grad = Zero<T>();
        for (const int32_t* e = from; e < to; ++e) {
          if (*e < num_labels) {
            if (coefficients[*e] == T(0)) continue;  // Of a row without weight, which may hold NaN.
            Storage* input = static_cast<Storage*>(plan.inputs) + *e / num_true * plan.input_stride;
            grad += coefficients[*e] * LoadWidened<T>(input + d, valid);
          } else {
            grad += LoadValid(grad_rows + (*e - num_labels) * plan.grad_stride + d, valid);
          }
        }
        StoreValid(out + d, grad, valid);
      });
      if (plan.grad_biases == nullptr) continue;
      T bias = T(0);
      for (const int32_t* e = from; e < to; ++e) {
        bias += *e < num_labels ? coefficients[*e] : static_cast<const T*>(plan.grad_offsets)[*e - num_labels];
      }
      static_cast<T*>(plan.grad_biases)[u] = bias;
    }
  });
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SHARED_SAMPLED_GRADS_H_
