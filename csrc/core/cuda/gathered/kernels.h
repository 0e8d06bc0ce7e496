// The passes of the gathered losses, compiled once for each type that embeddings are stored in.
#ifndef FASTNEG_CORE_CUDA_GATHERED_KERNELS_H_
#define FASTNEG_CORE_CUDA_GATHERED_KERNELS_H_

#include "core/cuda/api.h"
#include "core/cuda/gathered/plan.h"

namespace fastneg::cuda {

// How lanes share a row. Packs are 16 bytes; kRowsOf<n>Packs takes rows of up to n of them.
enum class RowLayout {
  kRowsOf8Packs,
  kRowsOf16Packs,
  kRowsOf32Packs,
  kRowsOf64Packs,
  kLongPackedRows,
  kRows,
  kLongRows
};

// Rows of up to so many single elements are kept in registers.
constexpr int kMostElements = 128;

// Lanes that a row takes in the row pass and in the item pass.
constexpr int LanesOf(RowLayout layout) {
  return layout == RowLayout::kRowsOf8Packs ? 8 : layout == RowLayout::kRowsOf16Packs ? 16 : 32;
}

constexpr int64_t NumRowBlocks(int64_t batch_size, RowLayout layout) {
  const int64_t rows = kBlockThreads / LanesOf(layout);
  return (batch_size + rows - 1) / rows;
}

struct GatheredKernels {
  // Puts all passes on the stream.
  Status (*rolled)(const GatheredPlan& plan, RowLayout layout, Stream stream);
  Status (*shuffled)(const GatheredPlan& plan, RowLayout layout, Stream stream);
};

extern const GatheredKernels kFloat16GatheredKernels;
extern const GatheredKernels kBFloat16GatheredKernels;
extern const GatheredKernels kFloat32GatheredKernels;
extern const GatheredKernels kFloat64GatheredKernels;

}  // namespace fastneg::cuda

#endif  // FASTNEG_CORE_CUDA_GATHERED_KERNELS_H_
