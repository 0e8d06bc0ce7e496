// From the compute types to the types that embeddings are stored in: to the nearest, ties to even.
#ifndef FASTNEG_CORE_CUDA_COMMON_NARROW_CUH_
#define FASTNEG_CORE_CUDA_COMMON_NARROW_CUH_

#include "core/cuda/common/storage.cuh"

namespace fastneg::cuda {

__device__ __forceinline__ void Narrow(float x, float* out) { *out = x; }
__device__ __forceinline__ void Narrow(double x, double* out) { *out = x; }

__device__ __forceinline__ void Narrow(float x, BFloat16* out) {
  const uint32_t bits = __float_as_uint(x);
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  out->bits = static_cast<uint16_t>(x == x ? rounded : bits >> 16 | 0x40);
}

__device__ __forceinline__ void Narrow(float x, Float16* out) {
#if defined(__CUDA_ARCH__)
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out->bits) : "f"(x));
#else
  const uint32_t bits = __float_as_uint(x);
  const uint32_t sign = bits >> 16 & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  uint32_t half = 0;
  if (x != x) {
    half = 0x7fff;
  } else if (magnitude >= 0x477ff000) {  // Rounds to 2^16, which is infinite.
    half = 0x7c00;
  } else if (magnitude >= 0x38800000) {
    half = (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13;
  } else {
    // The last bit of a subnormal is that of a float next to 0.5; the addition rounds.
    half = __float_as_uint(__uint_as_float(magnitude) + 0.5f) - 0x3f000000;
  }
  out->bits = static_cast<uint16_t>(sign | half);
#endif
}

}  // namespace fastneg::cuda

#endif  // FASTNEG_CORE_CUDA_COMMON_NARROW_CUH_
