// Arithmetic on sizes. All are far below 2^62: entries refuse larger ones before they get here.
#ifndef FASTNEG_CORE_SIZES_H_
#define FASTNEG_CORE_SIZES_H_

#include <cstddef>
#include <cstdint>

#include "core/api.h"

namespace fastneg {

constexpr int64_t kLineBytes = 64;

// No dimension may be larger: beyond any memory, and sums and small multiples of sizes stay far from overflow.
constexpr int64_t kLargestSize = int64_t{1} << 48;

constexpr int64_t CeilDiv(int64_t x, int64_t y) { return (x + y - 1) / y; }
constexpr int64_t RoundUp(int64_t x, int64_t multiple) { return CeilDiv(x, multiple) * multiple; }

constexpr bool IsSize(int64_t x) { return x >= 0 && x <= kLargestSize; }

constexpr bool IsDouble(DType dtype) { return ComputeType(dtype) == DType::kFloat64; }
constexpr size_t StorageBytes(DType dtype) { return IsDouble(dtype) ? 8 : dtype == DType::kFloat32 ? 4 : 2; }
constexpr size_t ComputeBytes(DType dtype) { return IsDouble(dtype) ? 8 : 4; }

constexpr bool IsEmbeddingType(DType dtype) {
  return dtype == DType::kFloat16 || dtype == DType::kBFloat16 || dtype == DType::kFloat32 || dtype == DType::kFloat64;
}

}  // namespace fastneg

#endif  // FASTNEG_CORE_SIZES_H_
