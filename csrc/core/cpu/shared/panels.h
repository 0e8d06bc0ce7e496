// A block of rows against one panel of candidates.
#ifndef FASTNEG_CORE_CPU_SHARED_PANELS_H_
#define FASTNEG_CORE_CPU_SHARED_PANELS_H_

#include "core/cpu/simd/convert.h"
#include "core/cpu/simd/matrix_tiles.h"
#include "core/cpu/simd/simd_math.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

// Bytes of a tile's dimensions that stay in the first-level cache together.
constexpr int64_t kTileDepthBytes = 32 << 10;

// Candidates that a panel holds: as many tiles as give the products over candidates a depth that pays for reading and
// writing their sums, and a number of rows that is a multiple of kTileRows.
constexpr int kPanelTiles = kVectorBytes == 64 ? 1 : 3;
constexpr int kPanelVecs = kPanelTiles * kTileVecs;
template <typename T>
constexpr int kWidthOfTile = kTileVecs * kLanes<T>;
template <typename T>
constexpr int kWidthOfPanel = kPanelVecs * kLanes<T>;
template <typename T>
constexpr int64_t kTileDepth = kTileDepthBytes / (kWidthOfTile<T> * static_cast<int64_t>(sizeof(T)));

template <typename T>
constexpr Vec<T> kMinusInfinity = Vec<T>{} - T(__builtin_huge_val());

template <typename T>
FASTNEG_INLINE int64_t VecsOfPanel(int64_t num_candidates, int64_t panel) {
  const int64_t vecs = (num_candidates - panel * kWidthOfPanel<T> + kLanes<T> - 1) / kLanes<T>;
  return vecs < kPanelVecs ? vecs : kPanelVecs;
}

// A panel and the blocks of a round, for passes over all panels of each round. index: round * num_panels + panel.
struct PanelOfRound {
  int64_t panel, begin, end;

  template <typename Plan>
  PanelOfRound(const Plan& plan, int64_t index)
      : panel(index % plan.num_panels), begin(index / plan.num_panels * plan.blocks_per_round) {
    const int64_t left = plan.num_blocks - begin;
    end = begin + (left < plan.blocks_per_round ? left : plan.blocks_per_round);
  }
};

// f(v) for the first `vecs` vectors of a tile, unrolled where these are all.
template <typename F>
FASTNEG_INLINE void ForTileVecs(int64_t vecs, F f) {
  if (vecs >= kTileVecs) {
#pragma GCC unroll 4
    for (int v = 0; v < kTileVecs; ++v) f(v);
  } else {
    for (int64_t v = 0; v < vecs; ++v) f(v);
  }
}

// f(v) for the vectors of a panel.
template <typename F>
FASTNEG_INLINE void ForPanelVecs(int64_t vecs, F f) {
  for (int64_t first = 0; first < vecs; first += kTileVecs) {
    ForTileVecs(vecs - first, [&](int64_t v) FASTNEG_LAMBDA_INLINE { f(first + v); });
  }
}

// Products of `rows` inputs with the candidates of a panel, transposed tile by tile, plus `start` (null for 0). A row
// has `dim` elements of type E.
template <typename E, typename T = SumOf<E>>
FASTNEG_INLINE void MultiplyByPanel(const E* inputs, int64_t input_stride, const E* columns, int64_t dim, int64_t rows,
                                    int64_t vecs, const T* start, T* out) {
  constexpr int64_t kPanel = kWidthOfPanel<T>, kTile = kWidthOfTile<T>, kDepth = kTileDepth<T>;
  const int64_t depth = dim < kDepth ? dim : kDepth;
  for (; vecs > 0; vecs -= kTileVecs) {
    const int64_t tile = vecs < kTileVecs ? vecs : kTileVecs;
    MultiplyPanel<E, Write::kSet>({inputs, input_stride, 1, columns, kTile, depth}, rows, tile, start, out, kPanel);
    for (int64_t d = depth; d < dim; d += kDepth) {
      const int64_t rest = dim - d < kDepth ? dim - d : kDepth;
      MultiplyPanel<E, Write::kAdd>({inputs + d, input_stride, 1, columns + d * kTile, kTile, rest}, rows, tile,
                                    nullptr, out, kPanel);
    }
    columns += dim * kTile;
    if (start != nullptr) start += kTile;
    out += kTile;
  }
}

// The product of rows a[l] and b[l] for each of kLanes pairs of prepared rows, to the bit what MultiplyByPanel makes of
// them: equal candidates have equal scores, wherever these come from.
template <typename T>
FASTNEG_INLINE Vec<T> PairProducts(const T* const* a, const T* const* b, int64_t dim) {
  Vec<T> total = Zero<T>();
  for (int64_t begin = 0; begin < dim; begin += kTileDepth<T>) {
    const int64_t end = dim - begin < kTileDepth<T> ? dim : begin + kTileDepth<T>;
    Vec<T> sum = Zero<T>();
    for (int64_t d = begin; d < end; d += kLanes<T>) {
      Vec<T> left[kLanes<T>], right[kLanes<T>];
      for (int l = 0; l < kLanes<T>; ++l) {
        left[l] = Load(a[l] + d);
        right[l] = Load(b[l] + d);
      }
      CallTranspose<T>(left);
      CallTranspose<T>(right);
      const int64_t valid = end - d < kLanes<T> ? end - d : kLanes<T>;
      for (int64_t k = 0; k < valid; ++k) sum += left[k] * right[k];
    }
    total = begin == 0 ? sum : total + sum;
  }
  return total;
}

// The largest of the lanes of each of kLanes vectors.
template <typename T>
FASTNEG_INLINE Vec<T> LargestLanes(const T* lanes) {
  Vec<T> v[kLanes<T>];
  for (int l = 0; l < kLanes<T>; ++l) v[l] = Load(lanes + l * kLanes<T>);
  CallTranspose<T>(v);
  for (int l = 1; l < kLanes<T>; ++l) v[0] = Max<T>(v[l], v[0]);
  return v[0];
}

template <typename T>
FASTNEG_INLINE Vec<T> SumsOfLanes(const T* lanes) {
  Vec<T> v[kLanes<T>];
  for (int l = 0; l < kLanes<T>; ++l) v[l] = Load(lanes + l * kLanes<T>);
  return TransposedSums<T>(v);
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SHARED_PANELS_H_
