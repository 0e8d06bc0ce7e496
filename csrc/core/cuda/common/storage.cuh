// The types that embeddings and scores are stored in, how they are read, and what they are computed in.
#ifndef FASTNEG_CORE_CUDA_COMMON_STORAGE_CUH_
#define FASTNEG_CORE_CUDA_COMMON_STORAGE_CUH_

#include <cuda_runtime.h>

#include <cstdint>

#include "core/api.h"

namespace fastneg::cuda {

// Half types are bits until they are widened: the headers that CUDA has for them are not needed, nor slow to compile.
struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

__device__ __forceinline__ double Widen(double x) { return x; }
__device__ __forceinline__ float Widen(float x) { return x; }
__device__ __forceinline__ float Widen(BFloat16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
__device__ __forceinline__ float Widen(Float16 x) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(x.bits));
  return result;
#else
  // A subnormal number counts 2^-24; of the others exponent and mantissa are shifted into place, where infinities and
  // NaNs keep the largest exponent. No subnormal float appears, which the host may take for 0.
  const uint32_t magnitude = static_cast<uint32_t>(x.bits & 0x7fff) << 13;
  uint32_t bits = magnitude + (112u << 23);
  if (magnitude < 0x00800000) bits = __float_as_uint(static_cast<float>(x.bits & 0x03ff) * 0x1p-24f);
  if (magnitude >= 0x0f800000) bits = magnitude | 0x7f800000;
  return __uint_as_float(bits | static_cast<uint32_t>(x.bits & 0x8000) << 16);
#endif
}

template <typename Storage>
struct ComputeTypeOf {
  using Type = float;
};
template <>
struct ComputeTypeOf<double> {
  using Type = double;
};
template <typename Storage>
using Compute = typename ComputeTypeOf<Storage>::Type;

// kVec neighbouring elements, loaded by one instruction.
template <typename Storage, int kVec>
struct alignas(sizeof(Storage) * kVec) Pack {
  Storage elements[kVec];
};

// Elements of a 16-byte pack.
template <typename Storage>
constexpr int kWide = 16 / static_cast<int>(sizeof(Storage));

// Memory that no kernel writes while it is read.
template <typename Storage, int kVec>
__device__ __forceinline__ Pack<Storage, kVec> LoadPack(const Storage* p) {
  Pack<Storage, kVec> pack;
  if constexpr (sizeof(pack) == 16) {
    const uint4 raw = __ldg(reinterpret_cast<const uint4*>(p));
    __builtin_memcpy(&pack, &raw, sizeof(pack));
  } else {
    static_assert(kVec == 1, "a pack is one element or 16 bytes");
    pack.elements[0] = *p;
  }
  return pack;
}

template <typename Storage, int kVec>
__device__ __forceinline__ Pack<Storage, kVec> ZeroPack() {
  Pack<Storage, kVec> pack;
  __builtin_memset(&pack, 0, sizeof(pack));
  return pack;
}

// Stores kVec neighbouring values of the compute type.
template <int kVec, typename T>
__device__ __forceinline__ void StoreValues(const T (&values)[kVec], T* p) {
  if constexpr (kVec % 4 == 0 && sizeof(T) == 4) {
#pragma unroll
    for (int e = 0; e < kVec; e += 4) {
      *reinterpret_cast<float4*>(p + e) = make_float4(values[e], values[e + 1], values[e + 2], values[e + 3]);
    }
  } else {
#pragma unroll
    for (int e = 0; e < kVec; ++e) p[e] = values[e];
  }
}

template <typename T>
__device__ __forceinline__ T NotANumber() {
  return T(__builtin_nanf(""));
}

}  // namespace fastneg::cuda

#endif  // FASTNEG_CORE_CUDA_COMMON_STORAGE_CUH_
