// Pairs of bfloat16 numbers whose products are added up in float: one instruction where the machine has it, and the
// same step by step elsewhere, for tests.
#ifndef FASTNEG_CORE_CPU_SIMD_BFLOAT16_PAIRS_H_
#define FASTNEG_CORE_CPU_SIMD_BFLOAT16_PAIRS_H_

#include "core/cpu/simd/convert.h"
#include "core/cpu/simd/matrix_tiles.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

// The first number in the lower half.
struct BFloat16Pair {
  uint32_t bits;
};

using PairVec = Unsigned<float>;

FASTNEG_INLINE PairVec LoadPairs(const BFloat16Pair* p) {
  PairVec pairs;
  __builtin_memcpy(&pairs, p, sizeof(pairs));
  return pairs;
}

FASTNEG_INLINE void StorePairs(BFloat16Pair* p, PairVec pairs) { __builtin_memcpy(p, &pairs, sizeof(pairs)); }

// Sums of both products: what a pair stands for is a[0] * b[0] + a[1] * b[1].
template <>
struct Product<BFloat16Pair> {
  using Sum = float;
  static FASTNEG_INLINE PairVec Column(const BFloat16Pair* b) { return LoadPairs(b); }
  static FASTNEG_INLINE PairVec Factor(const BFloat16Pair* a) { return a->bits - PairVec{}; }
  static FASTNEG_INLINE Vec<float> Add(Vec<float> sum, PairVec factor, PairVec column) {
#if defined(__AVX512BF16__)
    return reinterpret_cast<Vec<float>>(_mm512_dpbf16_ps(
        reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(factor), reinterpret_cast<__m512bh>(column)));
#else
    const PairVec upper = PairVec{} + 0xffff0000u;
    sum += reinterpret_cast<Vec<float>>(factor & upper) * reinterpret_cast<Vec<float>>(column & upper);
    return sum + reinterpret_cast<Vec<float>>(factor << 16) * reinterpret_cast<Vec<float>>(column << 16);
#endif
  }
};

// Rounded to nearest, ties to even.
FASTNEG_INLINE HalfBits ToBFloat16(Vec<float> v) {
#if defined(__AVX512BF16__)
  return reinterpret_cast<HalfBits>(_mm512_cvtneps_pbh(reinterpret_cast<__m512>(v)));
#else
  return NarrowToBits(v, BFloat16{});
#endif
}

FASTNEG_INLINE uint32_t ToBFloat16(float x) { return ToBFloat16(Broadcast(x))[0]; }

// Pairs of the lanes of two vectors.
FASTNEG_INLINE PairVec Interleaved(HalfBits first, HalfBits second) {
  return __builtin_convertvector(first, PairVec) | __builtin_convertvector(second, PairVec) << 16;
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SIMD_BFLOAT16_PAIRS_H_
