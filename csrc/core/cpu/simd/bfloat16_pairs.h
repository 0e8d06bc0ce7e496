// Pairs of bfloat16 numbers whose products are added up in float: matrices of 16 x 16 sums at a time (AMX) or a vector
// of sums (AVX512_BF16) where the machine has instructions for that, and the same step by step elsewhere, for tests.
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

#if defined(__AMX_BF16__)

constexpr bool kInMatrixRegisters = true;
// Pairs of a row that are multiplied at once. Where there are fewer, those behind them are zeros.
constexpr int64_t kPairStep = 16;
// Rows and columns of C that a register holds.
constexpr int64_t kTileSide = 16;

// The thread's matrix registers, all of them of 16 rows of 64 bytes, while this lives. C is in 0 to 3, two tiles beside
// each other and two below them; A is in 4 and 5, B in 6 and 7.
class MatrixRegisters {
 public:
  MatrixRegisters() {
    alignas(64) static constexpr Shapes kShapes = {
        1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    __asm__ volatile("ldtilecfg %0" : : "m"(kShapes));
  }
  ~MatrixRegisters() { __asm__ volatile("tilerelease"); }
  MatrixRegisters(const MatrixRegisters&) = delete;
  MatrixRegisters& operator=(const MatrixRegisters&) = delete;

 private:
  struct Shapes {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  };
};

template <int kRegister>
FASTNEG_INLINE void LoadTile(const void* p, int64_t row_bytes) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(row_bytes), "i"(kRegister) : "memory");
}

template <int kRegister>
FASTNEG_INLINE void StoreTile(void* p, int64_t row_bytes) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(row_bytes), "i"(kRegister) : "memory");
}

template <int kRegister>
FASTNEG_INLINE void ClearTile() {
  __asm__ volatile("tilezero %%tmm%c0" : : "i"(kRegister));
}

template <int kC, int kA, int kB>
FASTNEG_INLINE void AddTileProduct() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
}

// kRows x kColumns tiles of C, up to two of each.
template <Write kWrite, int kRows, int kColumns>
FASTNEG_INLINE void MultiplyTiles(const Factors<BFloat16Pair>& f, float* c, int64_t c_row) {
  const int64_t a_bytes = f.a_row * 4, b_bytes = f.b_row * 4, c_bytes = c_row * 4;
  float* below = c + kTileSide * c_row;
  if constexpr (kWrite == Write::kAdd) {
    LoadTile<0>(c, c_bytes);
    if constexpr (kColumns > 1) LoadTile<1>(c + kTileSide, c_bytes);
    if constexpr (kRows > 1) LoadTile<2>(below, c_bytes);
    if constexpr (kRows > 1 && kColumns > 1) LoadTile<3>(below + kTileSide, c_bytes);
  } else {
    ClearTile<0>();
    if constexpr (kColumns > 1) ClearTile<1>();
    if constexpr (kRows > 1) ClearTile<2>();
    if constexpr (kRows > 1 && kColumns > 1) ClearTile<3>();
  }
  const BFloat16Pair *a = f.a, *b = f.b;
  for (int64_t k = 0; k < f.depth; k += kPairStep) {
    LoadTile<4>(a, a_bytes);
    LoadTile<6>(b, b_bytes);
    AddTileProduct<0, 4, 6>();
    if constexpr (kColumns > 1) {
      LoadTile<7>(b + kTileSide, b_bytes);
      AddTileProduct<1, 4, 7>();
    }
    if constexpr (kRows > 1) {
      LoadTile<5>(a + kTileSide * f.a_row, a_bytes);
      AddTileProduct<2, 5, 6>();
      if constexpr (kColumns > 1) AddTileProduct<3, 5, 7>();
    }
    a += kPairStep;
    b += kPairStep * f.b_row;
  }
  StoreTile<0>(c, c_bytes);
  if constexpr (kColumns > 1) StoreTile<1>(c + kTileSide, c_bytes);
  if constexpr (kRows > 1) StoreTile<2>(below, c_bytes);
  if constexpr (kRows > 1 && kColumns > 1) StoreTile<3>(below + kTileSide, c_bytes);
}

// C = A B or C += A B, with kLanes<float> * `vecs` columns. Rows of A and C are there up to a multiple of 16, and those
// behind `rows` are written too.
template <Write kWrite>
FASTNEG_INLINE void MultiplyPairs(Factors<BFloat16Pair> f, int64_t rows, int64_t vecs, float* c, int64_t c_row) {
  static_assert(kLanes<float> == kTileSide);
  for (; vecs > 0; vecs -= 2) {
    Factors<BFloat16Pair> strip = f;
    float* out = c;
    for (int64_t left = rows; left > 0; left -= 2 * kTileSide) {
      if (left > kTileSide) {
        vecs > 1 ? MultiplyTiles<kWrite, 2, 2>(strip, out, c_row) : MultiplyTiles<kWrite, 2, 1>(strip, out, c_row);
      } else {
        vecs > 1 ? MultiplyTiles<kWrite, 1, 2>(strip, out, c_row) : MultiplyTiles<kWrite, 1, 1>(strip, out, c_row);
      }
      strip.a += 2 * kTileSide * f.a_row;
      out += 2 * kTileSide * c_row;
    }
    f.b += 2 * kTileSide;
    c += 2 * kTileSide;
  }
}

#else

constexpr bool kInMatrixRegisters = false;
constexpr int64_t kPairStep = 1;

struct MatrixRegisters {
  ~MatrixRegisters() {}  // Not trivial: an object of this type is no unused variable.
};

template <Write kWrite>
FASTNEG_INLINE void MultiplyPairs(const Factors<BFloat16Pair>& f, int64_t rows, int64_t vecs, float* c, int64_t c_row) {
  MultiplyMatrix<BFloat16Pair, kWrite>(f, rows, vecs, c, c_row);
}

#endif

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SIMD_BFLOAT16_PAIRS_H_
