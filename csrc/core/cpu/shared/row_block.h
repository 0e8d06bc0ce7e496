// A block of rows of the batch: prepared inputs, and their products with the candidates panel by panel.
#ifndef FASTNEG_CORE_CPU_SHARED_ROW_BLOCK_H_
#define FASTNEG_CORE_CPU_SHARED_ROW_BLOCK_H_

#include "core/cpu/shared/panels.h"
#include "core/cpu/shared/plan.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

// Calls f with a null pointer to the storage type of `dtype`, whose compute type is T.
template <typename T, typename F>
FASTNEG_INLINE void WithStorage(DType dtype, F f) {
  if constexpr (sizeof(T) == 8) {
    f(static_cast<const double*>(nullptr));
  } else if (dtype == DType::kFloat16) {
    f(static_cast<const Float16*>(nullptr));
  } else if (dtype == DType::kBFloat16) {
    f(static_cast<const BFloat16*>(nullptr));
  } else {
    f(static_cast<const float*>(nullptr));
  }
}

// 1 / norm of kLanes rows from the sums of their squares; negative where epsilon takes the place of the sum.
template <typename T>
FASTNEG_INLINE Vec<T> InverseNorms(Vec<T> squares) {
  // Not `squares >= epsilon`: a NaN has to reach the row, not to be clipped away.
  const Vec<T> epsilon = Broadcast(T(kNormEpsilon));
  const Mask<T> clipped = squares < epsilon;
  const Vec<T> norms = SquareRoot<T>(clipped ? epsilon : squares);
  const Vec<T> inverse = T(1) / norms;
  return clipped ? -inverse : inverse;
}

// What all losses keep of a block. Theirs derive from it, and say which scores are no negatives': ResetExclusions()
// before the first panel, then Exclude() panel by panel.
template <typename T>
struct RowBlock {
  using Compute = T;

  int64_t index = 0;
  int64_t first = 0;  // Row of the batch.
  int64_t count = 0;
  int64_t slot = 0;
  T *exponentials, *inputs;  // In the workspace.
  T* grads = nullptr;
  int64_t grads_stride = 0;

  // By row.
  T inverse[kMaxBlockRows];    // 1 / norm, negative where it was clipped; 1 where not normalised.
  T reference[kMaxBlockRows];  // Subtracted from logits before exp.

  RowBlock(const SharedPlan& plan, int64_t block) : index(block) {
    slot = block % plan.blocks_per_round;
    first = block * plan.block_rows;
    count = plan.batch_size - first < plan.block_rows ? plan.batch_size - first : plan.block_rows;
    panel_stride_ = plan.keeps_panels ? plan.block_rows * kWidthOfPanel<T> : 0;
    const int64_t panels = plan.keeps_panels ? plan.num_panels : 1;
    exponentials = static_cast<T*>(plan.exponentials) + slot * panels * plan.block_rows * kWidthOfPanel<T>;
    inputs = static_cast<T*>(plan.block_inputs) + slot * plan.block_rows * plan.dim_stride;
    if (plan.block_grads != nullptr) {
      grads = static_cast<T*>(plan.block_grads) + slot * plan.block_rows * plan.dim_stride;
      grads_stride = plan.dim_stride;
    } else if (plan.grad_inputs != nullptr) {
      grads = static_cast<T*>(plan.grad_inputs) + first * plan.embedding_dim;
      grads_stride = plan.embedding_dim;
    }
  }

  T* Panel(int64_t panel) const { return exponentials + panel * panel_stride_; }

 private:
  int64_t panel_stride_;
};

// Inputs, normalised where that is asked for, over the temperature.
template <typename T>
FASTNEG_NOINLINE void LoadInputs(const SharedPlan& plan, RowBlock<T>* block) {
  const int64_t dim = plan.embedding_dim;
  const T per_temperature = static_cast<T>(1.0 / plan.temperature);
  Vec<T> zero_if_finite = Zero<T>();
  WithStorage<T>(plan.dtype, [&](auto* storage) FASTNEG_LAMBDA_INLINE {
    using Storage = __typeof__(*storage);
    for (int64_t begin = 0; begin < block->count; begin += kLanes<T>) {
      const int64_t count = block->count - begin < kLanes<T> ? block->count - begin : kLanes<T>;
      Vec<T> squares[kLanes<T>];
      for (int64_t l = 0; l < kLanes<T>; ++l) {
        squares[l] = Zero<T>();
        if (l >= count) continue;
        Storage* row = static_cast<Storage*>(plan.inputs) + (block->first + begin + l) * plan.input_stride;
        T* copy = block->inputs + (begin + l) * plan.dim_stride;
        Vec<T> sum = Zero<T>();
        ForChunks<T>(dim, [&](int64_t d, int64_t valid) FASTNEG_LAMBDA_INLINE {
          const Vec<T> x = LoadWidened<T>(row + d, valid);
          sum += x * x;
          Store(copy + d, x);
        });
        squares[l] = sum;
      }
      Vec<T> inverse = Broadcast(T(1));
      if (plan.normalize) inverse = InverseNorms<T>(TransposedSums<T>(squares));
      Store(block->inverse + begin, inverse);
      const Vec<T> scales = (inverse < T(0) ? -inverse : inverse) * per_temperature;
      for (int64_t l = 0; l < count; ++l) {
        T* copy = block->inputs + (begin + l) * plan.dim_stride;
        const T scale = scales[l];
        ForChunks<T>(dim, [&](int64_t d, int64_t) FASTNEG_LAMBDA_INLINE {
          const Vec<T> x = Load(copy + d) * scale;
          zero_if_finite += T(0) * x;
          Store(copy + d, x);
        });
      }
    }
  });
  plan.block_is_finite[block->index] = !Any<T>(zero_if_finite != T(0));
}

// Products with one panel's candidates, and their offsets where the plan has them there.
template <typename T>
FASTNEG_NOINLINE void MultiplyByCandidates(const SharedPlan& plan, const RowBlock<T>& block, int64_t panel) {
  constexpr int64_t kWidth = kWidthOfPanel<T>;
  const T* columns = static_cast<const T*>(plan.panels) + panel * plan.embedding_dim * kWidth;
  const T* start = plan.offsets_in_scores ? static_cast<const T*>(plan.offsets) + panel * kWidth : nullptr;
  MultiplyByPanel<T>(block.inputs, plan.dim_stride, columns, plan.embedding_dim, block.count,
                     VecsOfPanel<T>(plan.num_candidates, panel), start, block.Panel(panel));
}

// Scores of one panel, -inf for no negatives.
template <typename Plan, typename Block>
FASTNEG_NOINLINE void ScorePanel(const Plan& plan, Block* block, int64_t panel) {
  MultiplyByCandidates(plan, *block, panel);
  block->Exclude(plan, panel);
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SHARED_ROW_BLOCK_H_
