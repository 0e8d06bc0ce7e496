// First pass of the shared losses: candidates side by side, in the two layouts that the matrix products take.
#ifndef FASTNEG_CORE_CPU_SHARED_PACK_CANDIDATES_H_
#define FASTNEG_CORE_CPU_SHARED_PACK_CANDIDATES_H_

#include "core/cpu/runtime/flush_denormals.h"
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

// log of expected counts: -inf for 0, NaN for what no count can be.
template <typename T>
FASTNEG_INLINE Vec<T> LogOfCount(Vec<T> count) {
  const Vec<T> infinity = Broadcast<T>(T(__builtin_huge_val()));
  const Vec<T> positive = Log<T>(count);
  const Vec<T> other = count == T(0) ? -infinity : infinity - infinity;
  return count > T(0) ? positive : other;
}

template <typename T>
void PackCandidates(void* context, int64_t panel) {
  const FlushDenormals flush;
  const SharedPlan& plan = *static_cast<const SharedPlan*>(context);
  constexpr int64_t kWidth = kWidthOfPanel<T>, kTile = kWidthOfTile<T>;
  const int64_t first = panel * kWidth;
  const int64_t count = plan.num_sampled - first < kWidth ? plan.num_sampled - first : kWidth;
  const int64_t dim = plan.embedding_dim;
  T* columns = static_cast<T*>(plan.panels) + panel * dim * kWidth;

  T counts[kWidth], biases[kWidth];
  for (int64_t s = 0; s < kWidth; ++s) {
    counts[s] = s < count ? static_cast<const T*>(plan.sampled_expected_count)[first + s] : T(1);
    biases[s] = s < count ? T(0) : -T(__builtin_huge_val());
    if (s < count && plan.biases != nullptr) {
      biases[s] = static_cast<const T*>(plan.biases)[plan.sampled_rows[first + s]];
    }
  }
  T* offsets = static_cast<T*>(plan.offsets) + first;
  for (int64_t s = 0; s < kWidth; s += kLanes<T>)
    Store(offsets + s, Load(biases + s) - LogOfCount<T>(Load(counts + s)));

  WithStorage<T>(plan.dtype, [&](auto* storage) FASTNEG_LAMBDA_INLINE {
    using Storage = __typeof__(*storage);
    for (int64_t group = 0; group < kWidth; group += kLanes<T>) {
      ForChunks<T>(dim, [&](int64_t d, int64_t valid) FASTNEG_LAMBDA_INLINE {
        Vec<T> square[kLanes<T>];
        for (int64_t l = 0; l < kLanes<T>; ++l) {
          const int64_t s = group + l;
          square[l] = Zero<T>();
          if (s < count) {
            Storage* row = static_cast<Storage*>(plan.rows) + plan.sampled_rows[first + s] * plan.row_stride;
            square[l] = LoadWidened<T>(row + d, valid);
            if (plan.candidates != nullptr) {
              Store(static_cast<T*>(plan.candidates) + (first + s) * plan.dim_stride + d, square[l]);
            }
          }
        }
        Transpose<T>(square);
        T* tile = columns + group / kTile * dim * kTile + group % kTile;
        for (int64_t l = 0; l < valid; ++l) Store(tile + (d + l) * kTile, square[l]);
      });
    }
  });
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SHARED_PACK_CANDIDATES_H_
