// Last passes of the shared losses: what the candidates get of each round of rows, and then what each distinct table
// row gets as a candidate and as a label. No two tasks write the same row, so the result does not depend on who runs
// what.
#ifndef FASTNEG_CORE_CPU_SHARED_GRADS_H_
#define FASTNEG_CORE_CPU_SHARED_GRADS_H_

#include "core/cpu/runtime/flush_denormals.h"
#include "core/cpu/shared/plan.h"
#include "core/cpu/shared/score_block.h"
#include "core/cpu/simd/convert.h"
#include "core/cpu/simd/matrix_tiles.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

template <typename T>
void CandidateGrads(void* context, int64_t index) {
  const FlushDenormals flush;
  const SharedPlan& plan = *static_cast<const SharedPlan*>(context);
  constexpr int64_t kWidth = kWidthOfPanel<T>;
  const auto [panel, begin, end] = PanelOfRound(plan, index);
  const int64_t left = plan.num_sampled - panel * kWidth;
  const int64_t count = left < kWidth ? left : kWidth;
  const int64_t vecs = (plan.embedding_dim + kLanes<T> - 1) / kLanes<T>;
  T* grads = static_cast<T*>(plan.grad_candidates) + panel * kWidth * plan.dim_stride;
  for (int64_t b = begin; b < end; ++b) {
    const Block<T> block(plan, b);
    const Factors<T> factors{block.Panel(panel), 1, kWidth, block.inputs, plan.dim_stride, block.count};
    if (b == 0) {
      MultiplyMatrix<T, Write::kSet>(factors, count, vecs, grads, plan.dim_stride);
    } else {
      MultiplyMatrix<T, Write::kAdd>(factors, count, vecs, grads, plan.dim_stride);
    }
  }
  if (plan.grad_offsets == nullptr) return;
  T* grad_offsets = static_cast<T*>(plan.grad_offsets) + panel * kWidth;
  const int64_t panel_vecs = VecsOfPanel<T>(plan.num_sampled, panel);
  for (int64_t b = begin; b < end; ++b) {
    const Block<T> block(plan, b);
    for (int64_t v = 0; v < panel_vecs; ++v) {
      Vec<T> sum = Zero<T>();
      for (int64_t r = 0; r < block.count; ++r) {
        sum += Load(block.Panel(panel) + r * kWidth + v * kLanes<T>) * block.scales[r];
      }
      T* out = grad_offsets + v * kLanes<T>;
      Store(out, b == 0 ? sum : Load(out) + sum);
    }
  }
}

template <typename T>
void ScatterRowGrads(void* context, int64_t task) {
  const FlushDenormals flush;
  const SharedPlan& plan = *static_cast<const SharedPlan*>(context);
  const int64_t dim = plan.embedding_dim, num_true = plan.num_true;
  const int64_t num_labels = plan.batch_size * num_true;
  const int64_t begin = task * plan.scatter_rows;
  const int64_t end = begin + plan.scatter_rows < plan.num_rows ? begin + plan.scatter_rows : plan.num_rows;
  const T* coefficients = static_cast<const T*>(plan.true_coefficients);
  const T* grad_candidates = static_cast<const T*>(plan.grad_candidates);
  WithStorage<T>(plan.dtype, [&](auto* storage) FASTNEG_LAMBDA_INLINE {
    using Storage = __typeof__(*storage);
    for (int64_t u = begin; u < end; ++u) {
      const int32_t* from = plan.occurrences + plan.first_occurrence[u];
      const int32_t* to = plan.occurrences + plan.first_occurrence[u + 1];
      T* out = static_cast<T*>(plan.grad_rows) + u * dim;
      ForChunks<T>(dim, [&](int64_t d, int64_t valid) FASTNEG_LAMBDA_INLINE {
        Vec<T> grad = Zero<T>();
        for (const int32_t* e = from; e < to; ++e) {
          if (*e < num_labels) {
            if (coefficients[*e] == T(0)) continue;  // Of a row without weight, which may hold NaN.
            Storage* input = static_cast<Storage*>(plan.inputs) + *e / num_true * plan.input_row_stride;
            grad += coefficients[*e] * LoadWidened<T>(input + d, valid);
          } else {
            grad += LoadValid(grad_candidates + (*e - num_labels) * plan.dim_stride + d, valid);
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

#endif  // FASTNEG_CORE_CPU_SHARED_GRADS_H_
