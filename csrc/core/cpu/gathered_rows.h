// The gathered family's inner loops: a row against other rows that lie anywhere in memory.
//
// "Prepared" rows are what PrepareRows (prepare_rows.h) leaves in the workspace: of the compute type, zero-padded to a
// whole number of vectors, 64-byte aligned. Which candidates a row has is none of this file's business.
#ifndef FASTNEG_CORE_CPU_GATHERED_ROWS_H_
#define FASTNEG_CORE_CPU_GATHERED_ROWS_H_

#include "core/cpu/simd.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

template <typename T>
FASTNEG_INLINE Vec<T> LoadAligned(const T* p) {
  return *reinterpret_cast<const Vec<T>*>(p);
}

template <typename T>
FASTNEG_INLINE void StoreAligned(T* p, Vec<T> v) {
  *reinterpret_cast<Vec<T>*>(p) = v;
}

// kChunks vectors of every product in flight: sums[l] += query(l) * candidate(l), where lane l belongs to query
// row l / (kLanes / kQueries).
template <typename T, int kQueries, int kChunks>
FASTNEG_INLINE void AccumulateDots(const T* const* queries, const T* const* candidates, int64_t offset, Vec<T>* sums) {
  constexpr int kPerQuery = kLanes<T> / kQueries;
#pragma GCC unroll 16
  for (int q = 0; q < kQueries; ++q) {
    Vec<T> query[kChunks];
#pragma GCC unroll 8
    for (int c = 0; c < kChunks; ++c) query[c] = LoadAligned(queries[q] + offset + c * kLanes<T>);
#pragma GCC unroll 16
    for (int k = 0; k < kPerQuery; ++k) {
      const int l = q * kPerQuery + k;
      const T* candidate = candidates[l] + offset;
#pragma GCC unroll 8
      for (int c = 0; c < kChunks; ++c) sums[l] += query[c] * LoadAligned(candidate + c * kLanes<T>);
    }
  }
}

// kLanes dot products of prepared rows at once. `chunks` is the row length in vectors. Every product is summed in the
// same order, so equal rows give equal bits in whatever lane.
template <typename T, int kQueries>
FASTNEG_INLINE Vec<T> Dots(const T* const* queries, const T* const* candidates, int64_t chunks) {
  Vec<T> sums[kLanes<T>];
#pragma GCC unroll 16
  for (int l = 0; l < kLanes<T>; ++l) sums[l] = Zero<T>();
  int64_t c = 0;
  for (; c + 4 <= chunks; c += 4) AccumulateDots<T, kQueries, 4>(queries, candidates, c * kLanes<T>, sums);
  for (; c < chunks; ++c) AccumulateDots<T, kQueries, 1>(queries, candidates, c * kLanes<T>, sums);
  return TransposedSums<T>(sums);
}

// The dot product of two prepared rows, with the bits that Dots gives.
template <typename T>
FASTNEG_INLINE T Dot(const T* a, const T* b, int64_t chunks) {
  Vec<T> sum = Zero<T>();
  for (int64_t c = 0; c < chunks; ++c) sum += LoadAligned(a + c * kLanes<T>) * LoadAligned(b + c * kLanes<T>);
  return Sum<T>(sum);
}

// kChunks vectors at `offset` of sum_k weights[k] rows[k], added to what stands in `out` if `add`. Only `valid` elements
// of the last vector exist in `out`.
template <typename T, int kChunks>
FASTNEG_INLINE void WeightedChunks(const T* weights, const T* const* rows, int64_t count, int64_t offset, bool add,
                                   int64_t valid, T* out) {
  constexpr int kChains = kChunks >= 8 ? 1 : 2;  // Enough independent sums to hide the latency of an addition.
  Vec<T> sums[kChains * kChunks];
  out += offset;
#pragma GCC unroll 16
  for (int c = 0; c < kChains * kChunks; ++c) sums[c] = Zero<T>();
  if (add) {
#pragma GCC unroll 8
    for (int c = 0; c + 1 < kChunks; ++c) sums[c] = Load(out + c * kLanes<T>);
    const T* last = out + (kChunks - 1) * kLanes<T>;
    sums[kChunks - 1] = valid == kLanes<T> ? Load(last) : LoadPartial(last, valid);
  }
  int64_t k = 0;
  for (; k + kChains <= count; k += kChains) {
#pragma GCC unroll 2
    for (int chain = 0; chain < kChains; ++chain) {
      const Vec<T> weight = Broadcast(weights[k + chain]);
      const T* row = rows[k + chain] + offset;
#pragma GCC unroll 8
      for (int c = 0; c < kChunks; ++c) sums[chain * kChunks + c] += weight * LoadAligned(row + c * kLanes<T>);
    }
  }
  if (kChains == 2 && k < count) {
    const Vec<T> weight = Broadcast(weights[k]);
#pragma GCC unroll 8
    for (int c = 0; c < kChunks; ++c) sums[c] += weight * LoadAligned(rows[k] + offset + c * kLanes<T>);
  }
#pragma GCC unroll 8
  for (int c = 0; c < kChunks; ++c) {
    if (kChains == 2) sums[c] += sums[kChunks + c];
    if (c + 1 < kChunks || valid == kLanes<T>) {
      Store(out + c * kLanes<T>, sums[c]);
    } else {
      StorePartial(out + c * kLanes<T>, sums[c], valid);
    }
  }
}

// out[0 .. dim) = (add ? out : 0) + sum_k weights[k] rows[k], rows prepared, `out` dense.
template <typename T>
FASTNEG_INLINE void WeightedRows(const T* weights, const T* const* rows, int64_t count, int64_t dim, bool add, T* out) {
  const int64_t chunks = (dim + kLanes<T> - 1) / kLanes<T>;
  int64_t c = 0;
  const auto valid = [&](int64_t end) { return end < chunks ? kLanes<T> : dim - (chunks - 1) * kLanes<T>; };
  for (; c + 8 <= chunks; c += 8) WeightedChunks<T, 8>(weights, rows, count, c * kLanes<T>, add, valid(c + 8), out);
  if (c + 4 <= chunks) {
    WeightedChunks<T, 4>(weights, rows, count, c * kLanes<T>, add, valid(c + 4), out);
    c += 4;
  }
  if (c + 2 <= chunks) {
    WeightedChunks<T, 2>(weights, rows, count, c * kLanes<T>, add, valid(c + 2), out);
    c += 2;
  }
  if (c < chunks) WeightedChunks<T, 1>(weights, rows, count, c * kLanes<T>, add, valid(c + 1), out);
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_GATHERED_ROWS_H_
