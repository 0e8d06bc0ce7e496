// exp, log and log1p on whole vectors.
//
// Error bounds over the stated ranges, measured against the correctly rounded value in tests/core: see each function.
// NaN goes in and comes out; nothing here depends on -ffast-math.
#ifndef FASTNEG_CORE_CPU_SIMD_SIMD_MATH_H_
#define FASTNEG_CORE_CPU_SIMD_SIMD_MATH_H_

#include "core/cpu/simd/simd.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

template <typename T>
struct MathConstants;

template <>
struct MathConstants<float> {
  static constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer.
  static constexpr int kMantissaBits = 23;
  static constexpr int32_t kExponentBias = 127;
  static constexpr float kLn2High = 0.693145751953125f;  // 15 bits, so that n * kLn2High is exact.
  static constexpr float kLn2Low = 1.42860677e-06f;
  static constexpr float kExpLowest = -87.0f;  // Below it exp is taken as 0; above it no result is subnormal.
  static constexpr float kExpHighest = 88.0f;
  static constexpr uint32_t kSqrtHalfBits = 0x3f3504f3;
  static constexpr uint32_t kOneBits = 0x3f800000;
};

template <>
struct MathConstants<double> {
  static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr int kMantissaBits = 52;
  static constexpr int64_t kExponentBias = 1023;
  static constexpr double kLn2High = 0.693147180369123816490;  // 32 bits.
  static constexpr double kLn2Low = 1.90821492927058770002e-10;
  static constexpr double kExpLowest = -708.0;
  static constexpr double kExpHighest = 709.0;
  static constexpr uint64_t kSqrtHalfBits = 0x3fe6a09e667f3bcd;
  static constexpr uint64_t kOneBits = 0x3ff0000000000000;
};

// Bit patterns of a vector, as integers and back. Unsigned ones: what is made of the bits of a NaN may wrap around.
template <typename T>
FASTNEG_INLINE Unsigned<T> Bits(Vec<T> v) {
  return reinterpret_cast<Unsigned<T>>(v);
}
template <typename T>
FASTNEG_INLINE Vec<T> FromBits(Unsigned<T> v) {
  return reinterpret_cast<Vec<T>>(v);
}

// 2^n, where adding kRound to n gave `shifted`, whose low bits then hold n: they are moved into the exponent.
template <typename T>
FASTNEG_INLINE Vec<T> PowerOfTwo(Vec<T> shifted) {
  using C = MathConstants<T>;
  return FromBits<T>((Bits<T>(shifted) << C::kMantissaBits) + C::kOneBits);
}

// e^x for x <= kExpHighest; 0 below kExpLowest. Error at most 1.1 ulp (float), 1.1 ulp (double).
template <typename T>
FASTNEG_INLINE Vec<T> Exp(Vec<T> x) {
  using C = MathConstants<T>;
  constexpr T kLog2E = T(1.44269504088896340736);
  const Vec<T> shifted = x * kLog2E + C::kRound;
  const Vec<T> n = shifted - C::kRound;
  const Vec<T> r = (x - n * C::kLn2High) - n * C::kLn2Low;  // |r| <= ln(2) / 2
  Vec<T> p;
  if constexpr (sizeof(T) == 4) {  // Taylor: the first term left out is below r^8 / 8! = 5e-9.
    p = r * T(1.0 / 5040) + T(1.0 / 720);
    p = p * r + T(1.0 / 120);
  } else {  // r^14 / 14! = 4e-18
    p = r * T(1.0 / 6227020800.0) + T(1.0 / 479001600);
    p = p * r + T(1.0 / 39916800);
    p = p * r + T(1.0 / 3628800);
    p = p * r + T(1.0 / 362880);
    p = p * r + T(1.0 / 40320);
    p = p * r + T(1.0 / 5040);
    p = p * r + T(1.0 / 720);
    p = p * r + T(1.0 / 120);
  }
  p = p * r + T(1.0 / 24);
  p = p * r + T(1.0 / 6);
  p = p * r + T(0.5);
  p = p * r + T(1);
  p = p * r + T(1);
  const Vec<T> result = p * PowerOfTwo<T>(shifted);
  return x < C::kExpLowest ? Zero<T>() : result;
}

// 2^x for x below 128 (float) or 1024 (double); 0 where that is below the smallest normal number. Error at most 1 ulp
// (float), 1.1 ulp (double). Where a factor of x is free anyway, this takes fewer steps than e^x.
template <typename T>
FASTNEG_INLINE Vec<T> Exp2(Vec<T> x) {
  using C = MathConstants<T>;
  constexpr T kLowest = T(1 - C::kExponentBias);
  const Vec<T> shifted = x + C::kRound;
  const Vec<T> r = x - (shifted - C::kRound);  // Exact, |r| <= 1 / 2.
  // p = 1 + r q(r), where q interpolates (2^r - 1) / r at the Chebyshev nodes.
  Vec<T> p;
  if constexpr (sizeof(T) == 4) {  // Relative error below 6e-9.
    p = r * T(0.000154531629451206902) + T(0.00133908633646712344);
    p = p * r + T(0.00961808255727785149);
    p = p * r + T(0.0555035711421907782);
    p = p * r + T(0.240226507605681269);
    p = p * r + T(0.693147188026228781);
  } else {  // 2e-19
    p = r * T(2.57293241773623042e-11) + T(4.45581790833606449e-10);
    p = p * r + T(7.05489730415549928e-9);
    p = p * r + T(1.01780570877339411e-7);
    p = p * r + T(1.32154868087055628e-6);
    p = p * r + T(0.0000152527338415567726);
    p = p * r + T(0.000154035303933707334);
    p = p * r + T(0.00133335581464064707);
    p = p * r + T(0.00961812910762847949);
    p = p * r + T(0.055504108664821627);
    p = p * r + T(0.240226506959100712);
    p = p * r + T(0.693147180559945309);
  }
  p = p * r + T(1);
  const Vec<T> result = p * PowerOfTwo<T>(shifted);
  return x < kLowest ? Zero<T>() : result;
}

// log(x) for positive normal x. Error at most 1 ulp of max(|log x|, 1).
template <typename T>
FASTNEG_INLINE Vec<T> Log(Vec<T> x) {
  using C = MathConstants<T>;
  // x = 2^n m with m in [sqrt(1/2), sqrt(2)).
  const Unsigned<T> bits = Bits<T>(x);
  const Mask<T> exponent = reinterpret_cast<Mask<T>>(bits - C::kSqrtHalfBits) >> C::kMantissaBits;
  const Vec<T> m = FromBits<T>(bits - (reinterpret_cast<Unsigned<T>>(exponent) << C::kMantissaBits));
  const Vec<T> n = __builtin_convertvector(exponent, Vec<T>);
  const Vec<T> f = m - T(1);
  const Vec<T> s = f / (f + T(2));  // log m = 2 atanh(s), |s| <= 0.1716
  const Vec<T> z = s * s;
  Vec<T> q;
  if constexpr (sizeof(T) == 4) {
    q = z * T(2.0 / 9) + T(2.0 / 7);
  } else {
    q = z * T(2.0 / 21) + T(2.0 / 19);
    q = q * z + T(2.0 / 17);
    q = q * z + T(2.0 / 15);
    q = q * z + T(2.0 / 13);
    q = q * z + T(2.0 / 11);
    q = q * z + T(2.0 / 9);
    q = q * z + T(2.0 / 7);
  }
  q = q * z + T(2.0 / 5);
  q = q * z + T(2.0 / 3);
  // log m = 2s + s z q, and 2s = f - s f keeps the leading term exact.
  const Vec<T> log_m = f - s * (f - z * q);
  const Vec<T> result = n * C::kLn2High + (log_m + n * C::kLn2Low);
  const Vec<T> infinity = Broadcast<T>(T(__builtin_huge_val()));
  const Vec<T> finite = x < infinity ? result : x;  // +Inf and NaN pass through.
  return finite;
}

// log(1 + x) for x >= 0, accurate also where x is small.
template <typename T>
FASTNEG_INLINE Vec<T> Log1p(Vec<T> x) {
  const Vec<T> u = x + T(1);
  const Vec<T> lost = x - (u - T(1));  // What rounding 1 + x dropped.
  const Vec<T> infinity = Broadcast<T>(T(__builtin_huge_val()));
  const Vec<T> result = Log<T>(u) + lost / u;
  return x < infinity ? result : u;
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SIMD_SIMD_MATH_H_
