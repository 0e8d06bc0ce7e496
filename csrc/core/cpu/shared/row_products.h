// From coefficients, the gradients by logits that blocks keep, to what inputs and candidates get of them.
#ifndef FASTNEG_CORE_CPU_SHARED_ROW_PRODUCTS_H_
#define FASTNEG_CORE_CPU_SHARED_ROW_PRODUCTS_H_

#include "core/cpu/shared/row_block.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

// f(r, s, value) for what is not 0 of `rows` rows of coefficients, `vecs` vectors of each.
template <typename T, typename F>
FASTNEG_INLINE void ForNonzeros(const T* coefficients, int64_t rows, int64_t vecs, F f) {
  for (int64_t r = 0; r < rows; ++r) {
    const T* row = coefficients + r * kWidthOfPanel<T>;
    for (int64_t v = 0; v < vecs; ++v) {
      uint32_t bits = LaneBits<T>(Load(row + v * kLanes<T>) != T(0));
      for (; bits != 0; bits &= bits - 1) {
        const int64_t s = v * kLanes<T> + __builtin_ctz(bits);
        f(r, s, row[s]);
      }
    }
  }
}

// out += factor * row, over whole vectors.
template <typename T>
FASTNEG_INLINE void AddScaled(T factor, const T* row, int64_t dim, T* out) {
  for (int64_t d = 0; d < dim; d += kLanes<T>) Store(out + d, Load(out + d) + factor * Load(row + d));
}

template <typename T>
FASTNEG_INLINE void ClearRows(T* out, int64_t stride, int64_t rows, int64_t dim) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t d = 0; d < dim; d += kLanes<T>) Store(out + r * stride + d, Zero<T>());
  }
}

// What the inputs get of one panel's candidates, added to block.grads; set by the first panel.
template <typename T>
FASTNEG_NOINLINE void AddInputGrads(const SharedPlan& plan, const RowBlock<T>& block, int64_t panel) {
  constexpr int64_t kWidth = kWidthOfPanel<T>;
  const int64_t dim = plan.embedding_dim, left = plan.num_candidates - panel * kWidth;
  const T* coefficients = block.Panel(panel);
  const T* rows = static_cast<const T*>(plan.rows) + panel * kWidth * plan.row_stride;
  if (plan.sparse || plan.panel_is_finite[panel] == 0) {
    if (panel == 0) ClearRows(block.grads, block.grads_stride, block.count, dim);
    const int64_t vecs = VecsOfPanel<T>(plan.num_candidates, panel);
    ForNonzeros(coefficients, block.count, vecs, [&](int64_t r, int64_t s, T coefficient) FASTNEG_LAMBDA_INLINE {
      AddScaled(coefficient, rows + s * plan.row_stride, dim, block.grads + r * block.grads_stride);
    });
    return;
  }
  const int64_t vecs = (dim + kLanes<T> - 1) / kLanes<T>;
  const Factors<T> factors{coefficients, kWidth, 1, rows, plan.row_stride, left < kWidth ? left : kWidth};
  if (panel == 0) {
    MultiplyMatrix<T, Write::kSet>(factors, block.count, vecs, block.grads, block.grads_stride);
  } else {
    MultiplyMatrix<T, Write::kAdd>(factors, block.count, vecs, block.grads, block.grads_stride);
  }
}

// What one panel's candidates get of a round of blocks. No two tasks write the same row, so the result does not depend
// on who runs what.
template <typename T>
FASTNEG_NOINLINE void AddCandidateGrads(const SharedPlan& plan, const PanelOfRound& part) {
  constexpr int64_t kWidth = kWidthOfPanel<T>;
  const int64_t left = plan.num_candidates - part.panel * kWidth, count = left < kWidth ? left : kWidth;
  const int64_t dim = plan.embedding_dim, vecs = (dim + kLanes<T> - 1) / kLanes<T>;
  T* grads = static_cast<T*>(plan.grad_rows) + part.panel * kWidth * plan.grad_stride;
  for (int64_t b = part.begin; b < part.end; ++b) {
    const int64_t slot = b % plan.blocks_per_round, first = b * plan.block_rows;
    const int64_t rows = plan.batch_size - first < plan.block_rows ? plan.batch_size - first : plan.block_rows;
    const T* coefficients =
        static_cast<const T*>(plan.exponentials) + (slot * plan.num_panels + part.panel) * plan.block_rows * kWidth;
    const T* inputs = static_cast<const T*>(plan.block_inputs) + slot * plan.block_rows * plan.dim_stride;
    if (plan.sparse || plan.block_is_finite[b] == 0) {
      if (b == 0) ClearRows(grads, plan.grad_stride, count, dim);
      const int64_t panel_vecs = VecsOfPanel<T>(plan.num_candidates, part.panel);
      ForNonzeros(coefficients, rows, panel_vecs, [&](int64_t r, int64_t s, T coefficient) FASTNEG_LAMBDA_INLINE {
        AddScaled(coefficient, inputs + r * plan.dim_stride, dim, grads + s * plan.grad_stride);
      });
      continue;
    }
    const Factors<T> factors{coefficients, 1, kWidth, inputs, plan.dim_stride, rows};
    if (b == 0) {
      MultiplyMatrix<T, Write::kSet>(factors, count, vecs, grads, plan.grad_stride);
    } else {
      MultiplyMatrix<T, Write::kAdd>(factors, count, vecs, grads, plan.grad_stride);
    }
  }
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SHARED_ROW_PRODUCTS_H_
