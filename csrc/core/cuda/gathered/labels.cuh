// Which rows count.
#ifndef FASTNEG_CORE_CUDA_GATHERED_LABELS_CUH_
#define FASTNEG_CORE_CUDA_GATHERED_LABELS_CUH_

#include <cuda_runtime.h>

#include "core/api.h"
#include "core/cuda/common/storage.cuh"

namespace fastneg::cuda {

inline bool IsLabelType(DType dtype) { return dtype >= DType::kBool && dtype <= DType::kFloat64; }

template <typename Label>
__device__ __forceinline__ bool IsPositive(const void* labels, int64_t i) {
  return static_cast<const Label*>(labels)[i] > Label(0);
}

// labels[i] > 0. NaN does not count.
__device__ inline bool Counts(const void* labels, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::kBool:
    case DType::kUInt8:
      return IsPositive<uint8_t>(labels, i);
    case DType::kInt8:
      return IsPositive<int8_t>(labels, i);
    case DType::kInt16:
      return IsPositive<int16_t>(labels, i);
    case DType::kUInt16:
      return IsPositive<uint16_t>(labels, i);
    case DType::kInt32:
      return IsPositive<int32_t>(labels, i);
    case DType::kUInt32:
      return IsPositive<uint32_t>(labels, i);
    case DType::kInt64:
      return IsPositive<int64_t>(labels, i);
    case DType::kUInt64:
      return IsPositive<uint64_t>(labels, i);
    case DType::kFloat16:
      return Widen(static_cast<const Float16*>(labels)[i]) > 0;
    case DType::kBFloat16:
      return Widen(static_cast<const BFloat16*>(labels)[i]) > 0;
    case DType::kFloat32:
      return IsPositive<float>(labels, i);
    case DType::kFloat64:
      return IsPositive<double>(labels, i);
  }
  return false;
}

}  // namespace fastneg::cuda

#endif  // FASTNEG_CORE_CUDA_GATHERED_LABELS_CUH_
