// From coefficients, the gradients by logits that a block keeps, to the gradients of queries and candidates.
#ifndef FASTNEG_CORE_CPU_SHARED_IN_BATCH_GRADS_H_
#define FASTNEG_CORE_CPU_SHARED_IN_BATCH_GRADS_H_

#include "core/cpu/shared/in_batch_block.h"
#include "core/cpu/shared/row_products.h"

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
  T* grad = block.grads + r * block.grads_stride;
  T* out = static_cast<T*>(plan.grad_inputs) + (block.first + r) * dim;
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

template <typename T>
void InBatchCandidateGrads(void* context, int64_t index) {
  const FlushDenormals flush;
  const InBatchPlan& plan = *static_cast<const InBatchPlan*>(context);
  AddCandidateGrads<T>(plan, PanelOfRound(plan, index));
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SHARED_IN_BATCH_GRADS_H_
