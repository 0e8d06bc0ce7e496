// First pass of the gathered losses: what the other passes want to know of every row, and of the candidates,
// beforehand.
//
// It reads the embeddings once, from memory; the other passes then find them in the second-level cache. Each row's norm
// is computed once here instead of once for every pair.
#ifndef FASTNEG_CORE_CUDA_GATHERED_PREPARE_ROWS_CUH_
#define FASTNEG_CORE_CUDA_GATHERED_PREPARE_ROWS_CUH_

#include "core/cuda/common/lanes.cuh"
#include "core/cuda/common/math.cuh"
#include "core/cuda/common/storage.cuh"
#include "core/cuda/gathered/labels.cuh"
#include "core/cuda/gathered/plan.h"

namespace fastneg::cuda {

// tf.nn.l2_normalize: x * rsqrt(max(sum x^2, epsilon)).
constexpr double kNormEpsilon = 1e-12;
// Probabilities are clipped below at this before their logarithm is taken.
constexpr double kLowestProbability = 1e-9;

constexpr int kPrepareLanes = 8;
constexpr int kPrepareRows = kBlockThreads / kPrepareLanes;  // Rows of a block.

// 1 / norm of a row; negative where epsilon took the place of the sum. Null: 0.
template <typename Storage, int kVec>
__device__ Compute<Storage> InverseNorm(const Storage* row, int dim) {
  using T = Compute<Storage>;
  using Group = Lanes<kPrepareLanes>;
  T square = 0;
  bool infinite = false;
  if (row != nullptr) {
#pragma unroll 4
    for (int d = Group::Index() * kVec; d < dim; d += kPrepareLanes * kVec) {
      const auto pack = LoadPack<Storage, kVec>(row + d);
#pragma unroll
      for (int v = 0; v < kVec; ++v) {
        const T x = Widen(pack.elements[v]);
        square += x * x;
        infinite |= IsInfinite(x);
      }
    }
  }
  square = Group::Sum(square);
  infinite = Group::Any(infinite);
  if (infinite) return NotANumber<T>();                                      // Infinity / infinity.
  if (square < T(kNormEpsilon)) return T(-1) / SquareRoot(T(kNormEpsilon));  // A NaN goes on.
  return T(1) / SquareRoot(square);
}

template <typename Storage, int kVec, typename Candidates>
__global__ void __launch_bounds__(kBlockThreads) PrepareKernel(const GatheredPlan plan, const int row_blocks) {
  using T = Compute<Storage>;
  __shared__ unsigned int counted;
  const int block = static_cast<int>(blockIdx.x);
  if (block >= row_blocks) return Candidates::Prepare(plan, block - row_blocks);

  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) counted = 0;
  if (block == 0 && thread == 0 && plan.positive_in_softmax && !(plan.negative_weight.Get<T>() == T(1))) {
    atomicMax(&plan.control->error, kBadParameter);
  }
  __syncthreads();
  const int64_t i = int64_t{block} * kPrepareRows + thread / kPrepareLanes;
  const bool exists = i < plan.batch_size;
  bool active = exists && (plan.labels == nullptr || Counts(plan.labels, plan.label_dtype, i));
  const bool weighted = active && (plan.weights == nullptr || static_cast<const T*>(plan.weights)[i] != T(0));
  // A row of weight 0 takes part only where it has a loss to tell its weight.
  if (plan.grad_weights == nullptr) active = weighted;

  T user_inverse = 1, item_inverse = 1;
  if (plan.normalise) {
    const Storage* user = static_cast<const Storage*>(plan.user_emb) + i * plan.user_row_stride;
    const Storage* item = static_cast<const Storage*>(plan.item_emb) + i * plan.item_row_stride;
    user_inverse = InverseNorm<Storage, kVec>(active ? user : nullptr, plan.embedding_dim);
    item_inverse = InverseNorm<Storage, kVec>(exists ? item : nullptr, plan.embedding_dim);
  }
  if (exists && thread % kPrepareLanes == 0) {
    plan.active[i] = active;
    static_cast<T*>(plan.user_inverse)[i] = user_inverse;
    static_cast<T*>(plan.item_inverse)[i] = item_inverse;
    if (plan.neg_log_prob != nullptr) {
      const T q = static_cast<const T*>(plan.sampling_probability)[i];
      const T lowest = T(kLowestProbability);
      static_cast<T*>(plan.neg_log_prob)[i] = -Log(q < lowest ? lowest : q);
    }
    if (weighted) atomicAdd(&counted, 1u);
  }
  __syncthreads();
  if (thread == 0 && counted > 0) atomicAdd(&plan.control->count, counted);
}

}  // namespace fastneg::cuda

#endif  // FASTNEG_CORE_CUDA_GATHERED_PREPARE_ROWS_CUH_
