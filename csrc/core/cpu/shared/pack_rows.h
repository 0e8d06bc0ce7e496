// First pass of the shared losses: candidates side by side, in the two layouts that the matrix products take.
#ifndef FASTNEG_CORE_CPU_SHARED_PACK_ROWS_H_
#define FASTNEG_CORE_CPU_SHARED_PACK_ROWS_H_

#include "core/cpu/shared/row_block.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

// Where the candidates of one panel come from.
template <typename T>
struct PanelSource {
  const void* rows;  // [., stride] of the plan's dtype.
  int64_t stride;
  int64_t row[kWidthOfPanel<T>];  // Of each candidate; -1 stands for zeros.
};

// Writes a panel, and rows where the plan copies them. Without kColumns all but the panel.
template <typename T, bool kColumns = true>
FASTNEG_NOINLINE void PackRows(const SharedPlan& plan, int64_t panel, const PanelSource<T>& source) {
  constexpr int64_t kWidth = kWidthOfPanel<T>, kTile = kWidthOfTile<T>;
  const int64_t first = panel * kWidth, dim = plan.embedding_dim;
  [[maybe_unused]] T* columns = kColumns ? static_cast<T*>(plan.panels) + panel * dim * kWidth : nullptr;
  T* rows = plan.copies_rows ? static_cast<T*>(const_cast<void*>(plan.rows)) : nullptr;
  Vec<T> zero_if_finite = Zero<T>();
  WithStorage<T>(plan.dtype, [&](auto* storage) FASTNEG_LAMBDA_INLINE {
    using Storage = __typeof__(*storage);
    for (int64_t group = 0; group < kWidth; group += kLanes<T>) {
      Storage* from[kLanes<T>];
      T scales[kLanes<T>];
      for (int64_t l = 0; l < kLanes<T>; ++l) {
        const int64_t row = source.row[group + l];
        from[l] = row < 0 ? nullptr : static_cast<Storage*>(source.rows) + row * source.stride;
        scales[l] = T(1);
      }
      if (plan.normalize) {
        Vec<T> squares[kLanes<T>];
        for (int64_t l = 0; l < kLanes<T>; ++l) {
          Vec<T> sum = Zero<T>();
          if (from[l] != nullptr) {
            ForChunks<T>(dim, [&](int64_t d, int64_t valid) FASTNEG_LAMBDA_INLINE {
              const Vec<T> x = LoadWidened<T>(from[l] + d, valid);
              sum += x * x;
            });
          }
          squares[l] = sum;
        }
        const Vec<T> inverse = InverseNorms<T>(TransposedSums<T>(squares));
        Store(static_cast<T*>(plan.inverse) + first + group, inverse);
        Store(scales, inverse < T(0) ? -inverse : inverse);
      }
      ForChunks<T>(dim, [&](int64_t d, int64_t valid) FASTNEG_LAMBDA_INLINE {
        Vec<T> square[kLanes<T>];
        for (int64_t l = 0; l < kLanes<T>; ++l) {
          square[l] = from[l] == nullptr ? Zero<T>() : scales[l] * LoadWidened<T>(from[l] + d, valid);
          zero_if_finite += T(0) * square[l];
          if (rows != nullptr) Store(rows + (first + group + l) * plan.row_stride + d, square[l]);
        }
        if constexpr (kColumns) {
          Transpose<T>(square);
          T* tile = columns + group / kTile * dim * kTile + group % kTile;
          for (int64_t l = 0; l < valid; ++l) Store(tile + (d + l) * kTile, square[l]);
        }
      });
    }
  });
  plan.panel_is_finite[panel] = !Any<T>(zero_if_finite != T(0));
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SHARED_PACK_ROWS_H_
