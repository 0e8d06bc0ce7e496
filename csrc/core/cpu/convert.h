// Widening loads and narrowing stores between the storage types and the compute type.
#ifndef FASTNEG_CORE_CPU_CONVERT_H_
#define FASTNEG_CORE_CPU_CONVERT_H_

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "core/cpu/simd.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

FASTNEG_INLINE float BitsToFloat(uint32_t bits) {
  float f;
  __builtin_memcpy(&f, &bits, 4);
  return f;
}
FASTNEG_INLINE uint32_t FloatToBits(float f) {
  uint32_t bits;
  __builtin_memcpy(&bits, &f, 4);
  return bits;
}

FASTNEG_INLINE float Widen(float x) { return x; }
FASTNEG_INLINE double Widen(double x) { return x; }
FASTNEG_INLINE float Widen(BFloat16 x) { return BitsToFloat(static_cast<uint32_t>(x.bits) << 16); }
FASTNEG_INLINE float Widen(Float16 x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t exponent = (x.bits >> 10) & 0x1fu;
  const uint32_t mantissa = x.bits & 0x3ffu;
  // Subnormals go through an integer, so that flush-to-zero modes leave them alone.
  const uint32_t subnormal = FloatToBits(static_cast<float>(static_cast<int32_t>(mantissa)) * 5.9604644775390625e-8f);
  const uint32_t normal = ((exponent + 112u) << 23) | (mantissa << 13);
  const uint32_t special = 0x7f800000u | (mantissa << 13);
  return BitsToFloat(sign | (exponent == 0 ? subnormal : exponent == 31 ? special : normal));
}

FASTNEG_INLINE void Narrow(float x, float* out) { *out = x; }
FASTNEG_INLINE void Narrow(double x, double* out) { *out = x; }
FASTNEG_INLINE void Narrow(float x, BFloat16* out) {  // Rounds to nearest, ties to even.
  const uint32_t bits = FloatToBits(x);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t nan = (bits >> 16) | 0x40u;
  out->bits = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}
FASTNEG_INLINE void Narrow(float x, Float16* out) {  // Rounds to nearest, ties to even; overflows to infinity.
  const uint32_t bits = FloatToBits(x);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;
  } else if (magnitude >= 0x477ff000u) {
    half = 0x7c00u;
  } else if (magnitude >= 0x38800000u) {
    half = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  } else {
    // Adding 0.5 aligns the subnormal's last bit with the float's; the addition rounds.
    half = FloatToBits(BitsToFloat(magnitude) + 0.5f) - 0x3f000000u;
  }
  out->bits = static_cast<uint16_t>(sign | half);
}

// `count` elements (kLanes where the caller has a whole vector), widened; zeros behind them.
template <typename T, typename Storage>
FASTNEG_INLINE Vec<T> LoadWidened(const Storage* p, int64_t count) {
  if constexpr (sizeof(Storage) == sizeof(T)) {
    const T* values = reinterpret_cast<const T*>(p);
    return count == kLanes<T> ? Load(values) : LoadPartial(values, count);
  } else {
    T lanes[kLanes<T>] = {};
#if defined(__F16C__)
    if constexpr (__is_same(Storage, Float16)) {
      if (count == kLanes<T>) {
        for (int l = 0; l < kLanes<T>; l += 8) {
          const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + l));
          _mm256_storeu_ps(lanes + l, _mm256_cvtph_ps(packed));
        }
        return Load(lanes);
      }
    }
#endif
    if (count == kLanes<T>) {
      for (int l = 0; l < kLanes<T>; ++l) lanes[l] = Widen(p[l]);
    } else {
      for (int64_t l = 0; l < count; ++l) lanes[l] = Widen(p[l]);
    }
    return Load(lanes);
  }
}

// The first `count` lanes, narrowed; writes nothing else.
template <typename T, typename Storage>
FASTNEG_INLINE void StoreNarrowed(Storage* p, Vec<T> v, int64_t count) {
  if constexpr (sizeof(Storage) == sizeof(T)) {
    StoreValid(reinterpret_cast<T*>(p), v, count);
  } else {
    T lanes[kLanes<T>];
    Store(lanes, v);
#if defined(__F16C__)
    if constexpr (__is_same(Storage, Float16)) {
      if (count == kLanes<T>) {
        for (int l = 0; l < kLanes<T>; l += 8) {
          const __m128i packed = _mm256_cvtps_ph(_mm256_loadu_ps(lanes + l), _MM_FROUND_TO_NEAREST_INT);
          _mm_storeu_si128(reinterpret_cast<__m128i*>(p + l), packed);
        }
        return;
      }
    }
#endif
    if (count == kLanes<T>) {
      for (int l = 0; l < kLanes<T>; ++l) Narrow(lanes[l], p + l);
    } else {
      for (int64_t l = 0; l < count; ++l) Narrow(lanes[l], p + l);
    }
  }
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_CONVERT_H_
