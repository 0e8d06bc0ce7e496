// First pass of the gathered losses: item rows are widened, L2-normalised and laid out for the passes that follow.
// (User rows are prepared by the second pass, tile by tile, where they are used at once.)
#ifndef FASTNEG_CORE_CPU_PREPARE_ROWS_H_
#define FASTNEG_CORE_CPU_PREPARE_ROWS_H_

#include "core/cpu/convert.h"
#include "core/cpu/flush_denormals.h"
#include "core/cpu/gathered_plan.h"
#include "core/cpu/gathered_rows.h"
#include "core/cpu/simd_math.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

// tf.nn.l2_normalize: x * rsqrt(max(sum x^2, epsilon)).
constexpr double kNormEpsilon = 1e-12;
// Probabilities are clipped below at this before their logarithm is taken.
constexpr double kLowestProbability = 1e-9;

// Writes one prepared row; returns 1 / norm, negative where epsilon took the place of the sum.
template <typename T, typename Storage>
FASTNEG_INLINE T PrepareRow(const Storage* row, int64_t dim, int64_t stride, bool normalise, T* out, T* norm) {
  constexpr int kLanes = cpu::FASTNEG_ISA_NAMESPACE::kLanes<T>;
  const int64_t whole = dim - dim % kLanes;
  Vec<T> sums[2] = {Zero<T>(), Zero<T>()};
  int64_t d = 0;
  int chain = 0;
  for (; d < whole; d += kLanes, chain ^= 1) {
    const Vec<T> x = LoadWidened<T>(row + d, kLanes);
    StoreAligned(out + d, x);
    sums[chain] += x * x;
  }
  if (d < dim) {
    const Vec<T> x = LoadWidened<T>(row + d, dim - d);
    StoreAligned(out + d, x);
    sums[0] += x * x;
    d += kLanes;
  }
  for (; d < stride; d += kLanes) StoreAligned(out + d, Zero<T>());
  const T square = Sum<T>(sums[0] + sums[1]);
  if (!normalise) {
    *norm = __builtin_sqrt(square);
    return T(1);
  }
  // Not `square >= epsilon`: a NaN has to reach the row, not to be clipped away.
  const bool clipped = square < T(kNormEpsilon);
  const T inverse = T(1) / __builtin_sqrt(clipped ? T(kNormEpsilon) : square);
  const Vec<T> scale = Broadcast(inverse);
  for (int64_t c = 0; c < stride; c += kLanes) StoreAligned(out + c, LoadAligned(out + c) * scale);
  return clipped ? -inverse : inverse;
}

// grad with respect to a normalised row -> grad with respect to the row: (g - (g . v) v) / norm. A zero gradient stays
// zero whatever the row holds: it belongs to a row that nobody used.
template <typename T>
FASTNEG_INLINE void ThroughNormalisation(const T* row, T inverse, int64_t dim, T* grad) {
  constexpr int kL = kLanes<T>;
  Vec<T> dot = Zero<T>();
  Mask<T> touched{};
  for (int64_t d = 0; d < dim; d += kL) {
    const Vec<T> g = dim - d < kL ? LoadPartial(grad + d, dim - d) : Load(grad + d);
    touched |= g != T(0);
    dot += g * LoadAligned(row + d);
  }
  if (!Any<T>(touched)) return;
  const bool clipped = inverse < 0;
  const T length = clipped ? -inverse : inverse;
  const T along = clipped ? T(0) : Sum<T>(dot);
  for (int64_t d = 0; d < dim; d += kL) {
    const int64_t valid = dim - d < kL ? dim - d : kL;
    const Vec<T> g = valid == kL ? Load(grad + d) : LoadPartial(grad + d, valid);
    const Vec<T> result = length * (g - along * LoadAligned(row + d));
    valid == kL ? Store(grad + d, result) : StorePartial(grad + d, result, valid);
  }
}

// Row i of a [B, D] matrix of Storage elements.
template <typename T, typename Storage>
void PrepareMatrixRow(const GatheredPlan& plan, const void* matrix, int64_t stride, int64_t i, T* out, T* inverse,
                      T* norm) {
  *inverse = PrepareRow<T>(static_cast<const Storage*>(matrix) + i * stride, plan.embedding_dim, plan.row_stride,
                           plan.normalise, out, norm);
}

template <typename T>
using PrepareFunction = void (*)(const GatheredPlan&, const void*, int64_t, int64_t, T*, T*, T*);

// The PrepareMatrixRow for the plan's dtype.
template <typename T>
PrepareFunction<T> ChoosePrepare(const GatheredPlan& plan) {
  if constexpr (sizeof(T) == 8) {
    return PrepareMatrixRow<double, double>;
  } else {
    if (plan.dtype == DType::kFloat16) return PrepareMatrixRow<float, Float16>;
    if (plan.dtype == DType::kBFloat16) return PrepareMatrixRow<float, BFloat16>;
    return PrepareMatrixRow<float, float>;
  }
}

// A tile of item rows.
template <typename T>
void PrepareItems(void* context, int64_t tile) {
  const FlushDenormals flush;
  const GatheredPlan& plan = *static_cast<const GatheredPlan*>(context);
  const PrepareFunction<T> prepare = ChoosePrepare<T>(plan);
  const int64_t begin = tile * plan.tile_rows;
  const int64_t end = begin + plan.tile_rows < plan.batch_size ? begin + plan.tile_rows : plan.batch_size;
  T* block_norms = static_cast<T*>(plan.block_norms);
  for (int64_t j = begin; j < end; ++j) {
    T norm = 0;
    prepare(plan, plan.item_emb, plan.item_row_stride, j, static_cast<T*>(plan.item) + j * plan.row_stride,
            static_cast<T*>(plan.item_inverse) + j, &norm);
    if (!plan.normalise) {
      T* largest = block_norms + j / kSumRows;
      if (j % kSumRows == 0) *largest = 0;
      *largest = *largest >= norm ? *largest : norm;
    }
  }
  if (plan.neg_log_prob != nullptr) {
    const T* probability = static_cast<const T*>(plan.sampling_probability);
    T* out = static_cast<T*>(plan.neg_log_prob);
    for (int64_t i = begin; i < end; i += kLanes<T>) {
      const int64_t count = end - i < kLanes<T> ? end - i : kLanes<T>;
      const Vec<T> q = LoadPartial(probability + i, count);
      const Vec<T> lowest = Broadcast(T(kLowestProbability));
      StorePartial(out + i, -Log<T>(q < lowest ? lowest : q), count);
    }
  }
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_PREPARE_ROWS_H_
