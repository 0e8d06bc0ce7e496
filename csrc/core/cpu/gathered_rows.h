// The gathered family's inner loops: a row against other rows that lie anywhere in memory.
//
// "Prepared" rows are what PrepareRows (prepare_rows.h) leaves in the workspace: of the compute type, zero-padded to a
// whole number of vectors, 64-byte aligned. Which candidates a row has is none of this file's business.
#ifndef FASTNEG_CORE_CPU_GATHERED_ROWS_H_
#define FASTNEG_CORE_CPU_GATHERED_ROWS_H_

#include "core/cpu/gathered_plan.h"
#include "core/cpu/simd.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

typedef int64_t IndexVec __attribute__((vector_size(kVectorBytes)));
constexpr int kIndexLanes = kVectorBytes / 8;

FASTNEG_INLINE IndexVec LoadIndices(const int64_t* p) {
  IndexVec v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

// Makes the compiler take the values from memory where they are used: cheaper than pulling them out of vectors.
template <int kSize>
FASTNEG_INLINE void KeepInMemory(int64_t* p) {
  __asm__("" : "+m"(*reinterpret_cast<int64_t (*)[kSize]>(p)));
}

FASTNEG_INLINE void StoreIndices(int64_t* p, IndexVec v) { __builtin_memcpy(p, &v, sizeof(v)); }

// The length of prepared rows in vectors, padding that helps unrolling included; at least 1.
template <typename T>
FASTNEG_INLINE int64_t RowChunks(const GatheredPlan& plan) {
  const int64_t chunks = plan.embedding_dim == 0 ? 1 : (plan.embedding_dim + kLanes<T> - 1) / kLanes<T>;
  return chunks % 4 == 3 && (chunks + 1) * kLanes<T> <= plan.row_stride ? chunks + 1 : chunks;
}

template <typename T>
FASTNEG_INLINE Vec<T> LoadAligned(const T* p) {
  return *reinterpret_cast<const Vec<T>*>(p);
}

template <typename T>
FASTNEG_INLINE void StoreAligned(T* p, Vec<T> v) {
  *reinterpret_cast<Vec<T>*>(p) = v;
}

// kLanes dot products of prepared rows at once: lane l is queries[l / (kLanes / kQueries)] times the row at
// candidates + offsets[l]. Rows are `blocks` blocks of kBlock vectors long, at least one. Every product is summed in
// the same order whatever its lane, so equal rows give equal bits.
template <typename T, int kQueries, int kBlock>
FASTNEG_INLINE Vec<T> DotsInBlocks(const T* const* queries, const T* candidates, const int64_t* offsets,
                                   int64_t blocks) {
  constexpr int kPerQuery = kLanes<T> / kQueries;
  Vec<T> sums[kLanes<T>];
#pragma GCC unroll 16
  for (int l = 0; l < kLanes<T>; ++l) sums[l] = Zero<T>();
  const int64_t end = blocks * kBlock * kLanes<T>;
  int64_t d = 0;
  do {
#pragma GCC unroll 16
    for (int q = 0; q < kQueries; ++q) {
      Vec<T> query[kBlock];
#pragma GCC unroll 4
      for (int c = 0; c < kBlock; ++c) query[c] = LoadAligned(queries[q] + d + c * kLanes<T>);
#pragma GCC unroll 16
      for (int k = 0; k < kPerQuery; ++k) {
        const int l = q * kPerQuery + k;
        const T* candidate = candidates + offsets[l] + d;
#pragma GCC unroll 4
        for (int c = 0; c < kBlock; ++c) sums[l] += query[c] * LoadAligned(candidate + c * kLanes<T>);
      }
    }
    d += kBlock * kLanes<T>;
  } while (d < end);
  return TransposedSums<T>(sums);
}

template <typename T, int kQueries>
FASTNEG_INLINE Vec<T> Dots(const T* const* queries, const T* candidates, const int64_t* offsets, int64_t chunks) {
  if (chunks == 4) return DotsInBlocks<T, kQueries, 4>(queries, candidates, offsets, 1);
  if (chunks == 8) return DotsInBlocks<T, kQueries, 4>(queries, candidates, offsets, 2);
  if (chunks % 4 == 0) return DotsInBlocks<T, kQueries, 4>(queries, candidates, offsets, chunks / 4);
  if (chunks % 2 == 0) return DotsInBlocks<T, kQueries, 2>(queries, candidates, offsets, chunks / 2);
  return DotsInBlocks<T, kQueries, 1>(queries, candidates, offsets, chunks);
}

// The dot product of two prepared rows, with the bits that Dots gives.
template <typename T>
FASTNEG_INLINE T Dot(const T* a, const T* b, int64_t chunks) {
  Vec<T> sum = Zero<T>();
  for (int64_t c = 0; c < chunks; ++c) sum += LoadAligned(a + c * kLanes<T>) * LoadAligned(b + c * kLanes<T>);
  return Sum<T>(sum);
}

// kChunks vectors at `offset` of sum_k weights[k] * (the row at rows + offsets[k]), added to what stands in `out` if
// `add`. Only `valid` elements of the last vector exist in `out`.
template <typename T, int kChunks>
FASTNEG_INLINE void WeightedChunks(const T* weights, const T* rows, const int64_t* offsets, int64_t count,
                                   int64_t offset, bool add, int64_t valid, T* out) {
  constexpr int kChains = kChunks >= 8 ? 1 : 2;  // Enough independent sums to hide the latency of an addition.
  Vec<T> sums[kChains * kChunks];
  out += offset;
  rows += offset;
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
      const T* row = rows + offsets[k + chain];
#pragma GCC unroll 8
      for (int c = 0; c < kChunks; ++c) sums[chain * kChunks + c] += weight * LoadAligned(row + c * kLanes<T>);
    }
  }
  if (kChains == 2 && k < count) {
    const Vec<T> weight = Broadcast(weights[k]);
#pragma GCC unroll 8
    for (int c = 0; c < kChunks; ++c) sums[c] += weight * LoadAligned(rows + offsets[k] + c * kLanes<T>);
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

// out[0 .. dim) = (add ? out : 0) + sum_k weights[k] * (the prepared row at rows + offsets[k]); `out` is dense.
template <typename T>
FASTNEG_INLINE void WeightedRows(const T* weights, const T* rows, const int64_t* offsets, int64_t count, int64_t dim,
                                 bool add, T* out) {
  const int64_t chunks = (dim + kLanes<T> - 1) / kLanes<T>;
  int64_t c = 0;
  const auto valid = [&](int64_t end) { return end < chunks ? kLanes<T> : dim - (chunks - 1) * kLanes<T>; };
  for (; c + 8 <= chunks; c += 8)
    WeightedChunks<T, 8>(weights, rows, offsets, count, c * kLanes<T>, add, valid(c + 8), out);
  if (c + 4 <= chunks) {
    WeightedChunks<T, 4>(weights, rows, offsets, count, c * kLanes<T>, add, valid(c + 4), out);
    c += 4;
  }
  if (c + 2 <= chunks) {
    WeightedChunks<T, 2>(weights, rows, offsets, count, c * kLanes<T>, add, valid(c + 2), out);
    c += 2;
  }
  if (c < chunks) WeightedChunks<T, 1>(weights, rows, offsets, count, c * kLanes<T>, add, valid(c + 1), out);
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_GATHERED_ROWS_H_
