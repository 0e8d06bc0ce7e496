// Widening loads and narrowing stores between the storage types and the compute type.
#ifndef FASTNEG_CORE_CPU_SIMD_CONVERT_H_
#define FASTNEG_CORE_CPU_SIMD_CONVERT_H_

#include "core/cpu/simd/simd.h"

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

FASTNEG_INLINE Float16 NarrowToFloat16(float x) {  // Rounds to nearest, ties to even; overflows to infinity.
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
  return {static_cast<uint16_t>(sign | half)};
}

// As many 16-bit patterns as a vector of float has lanes.
typedef uint16_t HalfBits __attribute__((vector_size(kVectorBytes / 2)));

// What the builtins below take; <immintrin.h>, whose functions wrap them, takes the compiler half a second in each
// unit.
typedef int16_t SignedHalfBits __attribute__((vector_size(kVectorBytes / 2)));

// The first `count` patterns at p, zeros behind them; reads nothing else.
FASTNEG_INLINE HalfBits LoadHalfBits(const void* p, int64_t count) {
  HalfBits bits{};
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  bits = reinterpret_cast<HalfBits>(_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << count) - 1), p));
#else
  if (count == kLanes<float>) {
    __builtin_memcpy(&bits, p, sizeof(bits));
  } else {
    for (int64_t l = 0; l < count; ++l) bits[l] = static_cast<const uint16_t*>(p)[l];
  }
#endif
  return bits;
}

#if defined(__AVX512BW__)  // One instruction where GCC 12 makes five of a conversion.
typedef uint16_t Halves __attribute__((vector_size(kVectorBytes)));
#endif

FASTNEG_INLINE Vec<float> WidenBits(HalfBits bits, BFloat16) {
#if defined(__AVX512BW__)
  constexpr Halves kSpread = {0, 0, 0, 1, 0, 2,  0, 3,  0, 4,  0, 5,  0, 6,  0, 7,
                              0, 8, 0, 9, 0, 10, 0, 11, 0, 12, 0, 13, 0, 14, 0, 15};
  const __m512i wide = _mm512_castsi256_si512(reinterpret_cast<__m256i>(bits));
  return reinterpret_cast<Vec<float>>(
      _mm512_maskz_permutexvar_epi16(0xaaaaaaaa, reinterpret_cast<__m512i>(kSpread), wide));
#else
  return reinterpret_cast<Vec<float>>(__builtin_convertvector(bits, Mask<float>) << 16);
#endif
}
FASTNEG_INLINE Vec<float> WidenBits(HalfBits bits, Float16) {
#if defined(__AVX512F__)  // maskz: GCC 12 warns of the plain intrinsic's undefined register.
  return reinterpret_cast<Vec<float>>(_mm512_maskz_cvtph_ps(0xffff, reinterpret_cast<__m256i>(bits)));
#elif defined(__F16C__)
  return reinterpret_cast<Vec<float>>(__builtin_ia32_vcvtph2ps256(reinterpret_cast<SignedHalfBits>(bits)));
#else
  Vec<float> v{};
  for (int l = 0; l < kLanes<float>; ++l) v[l] = Widen(Float16{bits[l]});
  return v;
#endif
}

// `count` elements (kLanes where the caller has a whole vector), widened; zeros behind them.
template <typename T, typename Storage>
FASTNEG_INLINE Vec<T> LoadWidened(const Storage* p, int64_t count) {
  if constexpr (sizeof(Storage) == sizeof(T)) {
    return LoadValid(reinterpret_cast<const T*>(p), count);
  } else {
    return WidenBits(LoadHalfBits(p, count), Storage{});
  }
}

// Rounded to nearest, ties to even.
FASTNEG_INLINE HalfBits NarrowToBits(Vec<float> v, BFloat16) {
  using Unsigned = Simd<float>::Unsigned;
  const Unsigned bits = reinterpret_cast<Unsigned>(v);
  const Unsigned rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  const Unsigned both = v != v ? bits | 0x400000u : rounded;  // The upper halves are the result.
#if defined(__AVX512BW__)
  constexpr Halves kUpper = {1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31};
  const __m512i packed =
      _mm512_maskz_permutexvar_epi16(0xffff, reinterpret_cast<__m512i>(kUpper), reinterpret_cast<__m512i>(both));
  HalfBits result;  // The plain casts of these intrinsics make GCC 12 warn too.
  __builtin_memcpy(&result, &packed, sizeof(result));
  return result;
#else
  return __builtin_convertvector(both >> 16, HalfBits);
#endif
}
FASTNEG_INLINE HalfBits NarrowToBits(Vec<float> v, Float16) {
#if defined(__AVX512F__)
  return reinterpret_cast<HalfBits>(
      _mm512_maskz_cvtps_ph(0xffff, reinterpret_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  return reinterpret_cast<HalfBits>(__builtin_ia32_vcvtps2ph256(v, 0));
#else
  HalfBits bits{};
  for (int l = 0; l < kLanes<float>; ++l) bits[l] = NarrowToFloat16(v[l]).bits;
  return bits;
#endif
}

// The first `count` lanes, narrowed; writes nothing else.
template <typename T, typename Storage>
FASTNEG_INLINE void StoreNarrowed(Storage* p, Vec<T> v, int64_t count) {
  if constexpr (sizeof(Storage) == sizeof(T)) {
    StoreValid(reinterpret_cast<T*>(p), v, count);
  } else {
    const HalfBits bits = NarrowToBits(v, Storage{});
    if (count == kLanes<T>) {
      __builtin_memcpy(p, &bits, sizeof(bits));
    } else {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
      _mm256_mask_storeu_epi16(p, static_cast<__mmask16>((1u << count) - 1), reinterpret_cast<__m256i>(bits));
#else
      for (int64_t l = 0; l < count; ++l) p[l].bits = bits[l];
#endif
    }
  }
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SIMD_CONVERT_H_
