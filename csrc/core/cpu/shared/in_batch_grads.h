// From coefficients, the gradients by logits that a block keeps, to the gradients of queries and candidates.
#ifndef FASTNEG_CORE_CPU_SHARED_IN_BATCH_GRADS_H_
#define FASTNEG_CORE_CPU_SHARED_IN_BATCH_GRADS_H_

#include "core/cpu/shared/in_batch_block.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

// The query gradients of raw sums over negatives: a row's are scale * sum + positive * its positive, for its prepared
// query; then through temperature and normalisation. Also what the row adds to the gradient by the temperature but for
// the hard negatives' part. The prepared query is left scaled for the candidates' gradients.
template <typename T>
struct RowGrad {
  T scale;     // Of the sums, and of the row for the candidates.
  T positive;  // d loss / d z of the positive, as far as the sums do not have it.
};

template <typename T>
FASTNEG_INLINE T FinishQueryGrad(const InBatchPlan& plan, const InBatchBlock<T>& block, int64_t r, RowGrad<T> factors) {
  const int64_t dim = plan.embedding_dim;
  const T per_temperature = static_cast<T>(1.0 / plan.temperature);
  T* input = block.inputs + r * plan.dim_stride;
  T* grad = block.grads + r * plan.dim_stride;
  T* out = static_cast<T*>(plan.grad_queries) + (block.first + r) * dim;
  if (factors.scale == T(0) && factors.positive == T(0)) {
    ForChunks<T>(dim, [&](int64_t d, int64_t valid) FASTNEG_LAMBDA_INLINE {
      StoreValid(out + d, Zero<T>(), valid);
      Store(input + d, Zero<T>());
    });
    return T(0);
  }
  const T* own = static_cast<const T*>(plan.rows) + block.positive[r] * plan.row_stride;
  Vec<T> along = Zero<T>();
  ForChunks<T>(dim, [&](int64_t d, int64_t) FASTNEG_LAMBDA_INLINE {
    const Vec<T> g = factors.scale * Load(grad + d) + factors.positive * Load(own + d);
    along += g * Load(input + d);
    Store(grad + d, g);
  });
  const T product = Sum<T>(along);
  const T inverse = block.inverse[r];
  const T length = inverse < T(0) ? -inverse : inverse;
  const bool projects = plan.normalize && !(inverse < T(0));
  const T back = projects ? product * static_cast<T>(plan.temperature) : T(0);
  ForChunks<T>(dim, [&](int64_t d, int64_t valid) FASTNEG_LAMBDA_INLINE {
    Vec<T> g = per_temperature * Load(grad + d);
    if (projects) g -= back * Load(input + d);
    StoreValid(out + d, length * g, valid);
    Store(input + d, factors.scale * Load(input + d));
  });
  return product;
}

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

// What the queries get of one panel's candidates, added to block.grads; set by the first panel.
template <typename T>
FASTNEG_NOINLINE void AddQueryGrads(const InBatchPlan& plan, const InBatchBlock<T>& block, int64_t panel) {
  constexpr int64_t kWidth = kWidthOfPanel<T>;
  const int64_t dim = plan.embedding_dim, left = plan.num_candidates - panel * kWidth;
  const T* coefficients = block.Panel(panel);
  const T* rows = static_cast<const T*>(plan.rows) + panel * kWidth * plan.row_stride;
  if (plan.sparse || plan.panel_is_finite[panel] == 0) {
    if (panel == 0) ClearRows(block.grads, plan.dim_stride, block.count, dim);
    const int64_t vecs = VecsOfPanel<T>(plan.num_candidates, panel);
    ForNonzeros(coefficients, block.count, vecs, [&](int64_t r, int64_t s, T coefficient) FASTNEG_LAMBDA_INLINE {
      AddScaled(coefficient, rows + s * plan.row_stride, dim, block.grads + r * plan.dim_stride);
    });
    return;
  }
  const int64_t vecs = (dim + kLanes<T> - 1) / kLanes<T>;
  const Factors<T> factors{coefficients, kWidth, 1, rows, plan.row_stride, left < kWidth ? left : kWidth};
  if (panel == 0) {
    MultiplyMatrix<T, Write::kSet>(factors, block.count, vecs, block.grads, plan.dim_stride);
  } else {
    MultiplyMatrix<T, Write::kAdd>(factors, block.count, vecs, block.grads, plan.dim_stride);
  }
}

// The gradient by the logit of row r and candidate j, where it does not come from an exponential.
template <typename T>
FASTNEG_INLINE void SetCoefficient(const InBatchPlan&, const InBatchBlock<T>& block, int64_t r, int64_t j, T value) {
  constexpr int64_t kWidth = kWidthOfPanel<T>;
  block.Panel(j / kWidth)[r * kWidth + j % kWidth] = value;
}

// Makes nothing depend on row r, NaN included.
template <typename T>
FASTNEG_INLINE void ClearCoefficients(const InBatchPlan& plan, const InBatchBlock<T>& block, int64_t r) {
  constexpr int64_t kWidth = kWidthOfPanel<T>;
  for (int64_t panel = 0; panel < plan.num_panels; ++panel) {
    for (int64_t s = 0; s < kWidth; ++s) block.Panel(panel)[r * kWidth + s] = T(0);
  }
}

// Called when a block's inputs are what the candidates' gradients take.
template <typename T>
FASTNEG_INLINE void FinishInputs(const InBatchPlan&, const InBatchBlock<T>&) {}

// What one panel's candidates get of a round of blocks. No two tasks write the same row.
template <typename T>
void InBatchCandidateGrads(void* context, int64_t index) {
  const FlushDenormals flush;
  const InBatchPlan& plan = *static_cast<const InBatchPlan*>(context);
  constexpr int64_t kWidth = kWidthOfPanel<T>;
  const PanelOfRound part(plan, index);
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

#endif  // FASTNEG_CORE_CPU_SHARED_IN_BATCH_GRADS_H_
