// Products of small matrices whose parts stay in registers and the first-level cache: C = A B and C += A B.
#ifndef FASTNEG_CORE_CPU_SIMD_MATRIX_TILES_H_
#define FASTNEG_CORE_CPU_SIMD_MATRIX_TILES_H_

#include <cstdint>

#include "core/cpu/simd/simd.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

// A tile of C that fits the registers beside one row of B: 6 x 4 of 32 registers, 6 x 2 of 16.
constexpr int kTileRows = 6;
constexpr int kTileVecs = kVectorBytes == 64 ? 4 : 2;

// How elements of A and B are multiplied, and what their products are added up in.
template <typename T>
struct Product {
  using Sum = T;
  static FASTNEG_INLINE Vec<T> Column(const T* b) { return Load(b); }
  static FASTNEG_INLINE Vec<T> Factor(const T* a) { return Broadcast(*a); }
  static FASTNEG_INLINE Vec<T> Add(Vec<T> sum, Vec<T> factor, Vec<T> column) { return sum + factor * column; }
};
template <typename T>
using SumOf = typename Product<T>::Sum;

// Element (r, k) of A is a[r * a_row + k * a_depth]; rows of B and of C are contiguous.
template <typename T>
struct Factors {
  const T* a;
  int64_t a_row, a_depth;
  const T* b;
  int64_t b_row;
  int64_t depth;  // Columns of A, rows of B.
};

enum class Write { kSet, kAdd };

// One tile. The sum over k starts at 0 in order, and is added to C or `start` (a row, null for 0) at the end.
template <typename T, int kRows, int kVecs, Write kWrite, typename S = SumOf<T>>
FASTNEG_INLINE void MultiplyTile(const Factors<T>& f, const S* start, S* c, int64_t c_row) {
  using Multiply = Product<T>;
  Vec<S> sums[kRows][kVecs] = {};
  const T* a = f.a;
  const T* b = f.b;
  const int64_t a_row = f.a_row, a_depth = f.a_depth, b_row = f.b_row;
  for (int64_t k = f.depth; k > 0; --k) {
    decltype(Multiply::Column(b)) columns[kVecs];
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) columns[v] = Multiply::Column(b + v * kLanes<S>);
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      const auto factor = Multiply::Factor(a + r * a_row);
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) sums[r][v] = Multiply::Add(sums[r][v], factor, columns[v]);
    }
    a += a_depth;
    b += b_row;
  }
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) {
      S* out = c + r * c_row + v * kLanes<S>;
      if constexpr (kWrite == Write::kAdd) {
        Store(out, Load(out) + sums[r][v]);
      } else {
        Store(out, start == nullptr ? sums[r][v] : sums[r][v] + Load(start + v * kLanes<S>));
      }
    }
  }
}

// `rows` rows of C, kVecs vectors wide.
template <typename T, int kVecs, Write kWrite, int kRows = kTileRows>
void MultiplyRows(Factors<T> f, int64_t rows, const SumOf<T>* start, SumOf<T>* c, int64_t c_row) {
  for (; rows >= kRows; rows -= kRows) {
    MultiplyTile<T, kRows, kVecs, kWrite>(f, start, c, c_row);
    f.a += kRows * f.a_row;
    c += kRows * c_row;
  }
  if constexpr (kRows > 1) {
    if (rows > 0) MultiplyRows<T, kVecs, kWrite, kRows - 1>(f, rows, start, c, c_row);
  }
}

// `rows` rows of C, `vecs` vectors wide, 1 <= vecs <= kTileVecs.
template <typename T, Write kWrite, int kVecs = kTileVecs>
FASTNEG_INLINE void MultiplyPanel(const Factors<T>& f, int64_t rows, int64_t vecs, const SumOf<T>* start, SumOf<T>* c,
                                  int64_t c_row) {
  if constexpr (kVecs > 1) {
    if (vecs < kVecs) return MultiplyPanel<T, kWrite, kVecs - 1>(f, rows, vecs, start, c, c_row);
  }
  MultiplyRows<T, kVecs, kWrite>(f, rows, start, c, c_row);
}

// `rows` rows of C, `vecs` vectors wide, any number of them.
template <typename T, Write kWrite>
FASTNEG_INLINE void MultiplyMatrix(Factors<T> f, int64_t rows, int64_t vecs, SumOf<T>* c, int64_t c_row) {
  for (; vecs > 0; vecs -= kTileVecs) {
    MultiplyPanel<T, kWrite>(f, rows, vecs < kTileVecs ? vecs : kTileVecs, nullptr, c, c_row);
    f.b += kTileVecs * kLanes<SumOf<T>>;
    c += kTileVecs * kLanes<SumOf<T>>;
  }
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SIMD_MATRIX_TILES_H_
