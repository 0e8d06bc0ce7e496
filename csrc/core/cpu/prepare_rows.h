// First pass of the gathered losses: rows are widened, L2-normalised and laid out for the passes that follow.
#ifndef FASTNEG_CORE_CPU_PREPARE_ROWS_H_
#define FASTNEG_CORE_CPU_PREPARE_ROWS_H_

#include "core/cpu/convert.h"
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

template <typename T, typename Storage>
void PrepareTile(const GatheredPlan& plan, int64_t tile) {
  const int64_t begin = tile * plan.tile_rows;
  const int64_t end = begin + plan.tile_rows < plan.batch_size ? begin + plan.tile_rows : plan.batch_size;
  const int64_t chunks = RowChunks<T>(plan);
  T* positive = static_cast<T*>(plan.positive);
  T* block_norms = static_cast<T*>(plan.block_norms);
  if (!plan.normalise) {
    for (int64_t block = begin / kSumRows; block * kSumRows < end; ++block) block_norms[2 * block] = block_norms[2 * block + 1] = 0;
  }
  for (int64_t i = begin; i < end; ++i) {
    T user_norm = 0, item_norm = 0;
    T* user = static_cast<T*>(plan.user) + i * plan.row_stride;
    T* item = static_cast<T*>(plan.item) + i * plan.row_stride;
    static_cast<T*>(plan.item_inverse)[i] =
        PrepareRow<T>(static_cast<const Storage*>(plan.item_emb) + i * plan.item_row_stride, plan.embedding_dim,
                      plan.row_stride, plan.normalise, item, &item_norm);
    if (plan.active[i]) {
      static_cast<T*>(plan.user_inverse)[i] =
          PrepareRow<T>(static_cast<const Storage*>(plan.user_emb) + i * plan.user_row_stride, plan.embedding_dim,
                        plan.row_stride, plan.normalise, user, &user_norm);
      positive[i] = Dot(user, item, chunks);
    } else {
      for (int64_t d = 0; d < plan.row_stride; ++d) user[d] = 0;
    }
    if (!plan.normalise) {
      T* norms = block_norms + 2 * (i / kSumRows);
      norms[0] = norms[0] >= user_norm ? norms[0] : user_norm;  // NaN wins.
      norms[1] = norms[1] >= item_norm ? norms[1] : item_norm;
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

template <typename T>
void PrepareRows(void* context, int64_t tile) {
  const GatheredPlan& plan = *static_cast<const GatheredPlan*>(context);
  if constexpr (sizeof(T) == 8) {
    PrepareTile<double, double>(plan, tile);
  } else if (plan.dtype == DType::kFloat16) {
    PrepareTile<float, Float16>(plan, tile);
  } else if (plan.dtype == DType::kBFloat16) {
    PrepareTile<float, BFloat16>(plan, tile);
  } else {
    PrepareTile<float, float>(plan, tile);
  }
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_PREPARE_ROWS_H_
