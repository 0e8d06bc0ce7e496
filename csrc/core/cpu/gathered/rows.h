// The gathered family's inner loops: a row against other rows that lie anywhere in memory.
//
// "Prepared" rows are what PrepareRows (prepare_rows.h) leaves in the workspace: of the compute type, zero-padded to a
// whole number of vectors, 64-byte aligned. Which candidates a row has is none of this file's business.
#ifndef FASTNEG_CORE_CPU_GATHERED_ROWS_H_
#define FASTNEG_CORE_CPU_GATHERED_ROWS_H_

#include "core/cpu/gathered/plan.h"
#include "core/cpu/simd/simd.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

// The length of prepared rows in vectors, padding that helps unrolling included; at least 1.
template <typename T>
FASTNEG_INLINE int64_t RowChunks(const GatheredPlan& plan) {
  const int64_t chunks = plan.embedding_dim == 0 ? 1 : (plan.embedding_dim + kLanes<T> - 1) / kLanes<T>;
  return chunks % 4 == 3 && (chunks + 1) * kLanes<T> <= plan.row_stride ? chunks + 1 : chunks;
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
  if (chunks % 4 == 0) return DotsInBlocks<T, kQueries, 4>(queries, candidates, offsets, chunks / 4);
  if (chunks % 2 == 0) return DotsInBlocks<T, kQueries, 2>(queries, candidates, offsets, chunks / 2);
  return DotsInBlocks<T, kQueries, 1>(queries, candidates, offsets, chunks);
}

// The same, for callers that are not worth a copy of all that code.
template <typename T, int kQueries>
FASTNEG_NOINLINE Vec<T> CallDots(const T* const* queries, const T* candidates, const int64_t* offsets, int64_t chunks) {
  return Dots<T, kQueries>(queries, candidates, offsets, chunks);
}

// How sums over rows are formed, everywhere in this file: each element in the order of k, starting from what is there.
// So it does not matter how many elements or rows a loop takes at a time.

// Loads and stores the first `size` elements of kChunks vectors; all of them if kWhole. (Without branches between the
// vectors: they would tempt the compiler to move the arithmetic that follows in between.)
template <typename T, int kChunks, bool kWhole>
FASTNEG_INLINE void LoadChunks(const T* p, int64_t size, Vec<T>* v) {
  constexpr int64_t kL = kLanes<T>;
#pragma GCC unroll 8
  for (int c = 0; c < kChunks; ++c) {
    const int64_t left = size - c * kL;
    v[c] = kWhole ? Load(p + c * kL) : LoadPartial(p + c * kL, left < 0 ? 0 : left < kL ? left : kL);
  }
}

template <typename T, int kChunks, bool kWhole>
FASTNEG_INLINE void StoreChunks(const Vec<T>* v, int64_t size, T* p) {
  constexpr int64_t kL = kLanes<T>;
#pragma GCC unroll 8
  for (int c = 0; c < kChunks; ++c) {
    const int64_t left = size - c * kL;
    kWhole ? Store(p + c * kL, v[c]) : StorePartial(p + c * kL, v[c], left < 0 ? 0 : left < kL ? left : kL);
  }
}

// The sums of kRows rows: row r gathers weights[weight_offsets[k] + r] times the prepared row at
// rows + offsets[k] + r * row_stride.
template <typename T>
struct WeightedSum {
  const T* weights;
  const int64_t* weight_offsets;  // Null: k.
  const T* rows;
  const int64_t* offsets;
  int64_t row_stride;
  int64_t count;  // Of k.

  FASTNEG_INLINE const T* Weight(int64_t k) const {
    return weights + (weight_offsets == nullptr ? k : weight_offsets[k]);
  }
};

// Whether AddWeightedRows has whole rows of `dim` elements in registers.
template <typename T>
FASTNEG_INLINE bool SumsInRegisters(int64_t dim) {
  constexpr int64_t kL = kLanes<T>;
  return dim == kL || dim == 2 * kL || dim == 4 * kL || dim == 8 * kL;
}

// What AddWeightedRows does to row r's sum before it stores it: nothing.
struct KeepSum {
  template <int kChunks, typename V>
  FASTNEG_INLINE void Finish(int /*r*/, V* /*sum*/) const {}
};

// kChunks vectors at element d of kRows sums, added to what stands in `out` if `add`. `out` is dense, `dim` a row.
template <typename T, int kChunks, int kRows, bool kWhole, typename Last>
FASTNEG_INLINE void WeightedChunks(const WeightedSum<T>& sum, int64_t d, int64_t dim, bool add, const Last& last,
                                   T* out) {
  Vec<T> sums[kRows][kChunks];
#pragma GCC unroll 2
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < kChunks; ++c) sums[r][c] = Zero<T>();
  }
  if (add) {
#pragma GCC unroll 2
    for (int r = 0; r < kRows; ++r) LoadChunks<T, kChunks, kWhole>(out + r * dim + d, dim - d, sums[r]);
  }
  for (int64_t k = 0; k < sum.count; ++k) {
    const T* weight = sum.Weight(k);
    const T* row = sum.rows + sum.offsets[k] + d;
#pragma GCC unroll 2
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int c = 0; c < kChunks; ++c)
        sums[r][c] += Broadcast(weight[r]) * LoadAligned(row + r * sum.row_stride + c * kLanes<T>);
    }
  }
#pragma GCC unroll 2
  for (int r = 0; r < kRows; ++r) {
    last.template Finish<kChunks>(r, sums[r]);
    StoreChunks<T, kChunks, kWhole>(sums[r], dim - d, out + r * dim + d);
  }
}

template <typename T, int kRows, typename Last = KeepSum>
FASTNEG_INLINE void AddWeightedRows(const WeightedSum<T>& sum, int64_t dim, bool add, T* out, const Last& last = {}) {
  constexpr int64_t kL = kLanes<T>;
  int64_t d = 0;
  for (; dim - d >= 8 * kL; d += 8 * kL) WeightedChunks<T, 8, kRows, true>(sum, d, dim, add, last, out);
  if (dim - d >= 4 * kL) {
    WeightedChunks<T, 4, kRows, true>(sum, d, dim, add, last, out);
    d += 4 * kL;
  }
  if (dim - d > 2 * kL) {
    WeightedChunks<T, 4, kRows, false>(sum, d, dim, add, last, out);
  } else if (dim - d > kL) {
    WeightedChunks<T, 2, kRows, false>(sum, d, dim, add, last, out);
  } else if (dim > d) {
    WeightedChunks<T, 1, kRows, false>(sum, d, dim, add, last, out);
  }
}

// The same for one row, for callers that are not worth a copy of all that code.
template <typename T>
FASTNEG_NOINLINE void CallAddWeightedRow(const WeightedSum<T>& sum, int64_t dim, bool add, T* out) {
  AddWeightedRows<T, 1>(sum, dim, add, out);
}

// A few more than kStreams where they are the last: cheaper than another round.
constexpr int64_t kMaxItemStreams = kStreams + kStreams / 2;

// The same as AddWeightedRows without the terms of weight 0, for the many that there are where few rows are active.
template <typename T>
FASTNEG_NOINLINE void AddNonzero(const WeightedSum<T>& sum, int64_t dim, bool add, T* out) {
  T weights[kMaxItemStreams + 1];
  int64_t offsets[kMaxItemStreams + 1];
  int64_t used = 0;
  for (int64_t k = 0; k < sum.count; ++k) {
    weights[used] = *sum.Weight(k);
    offsets[used] = sum.offsets[k];
    used += weights[used] != 0;
  }
  CallAddWeightedRow<T>({weights, nullptr, sum.rows, offsets, sum.row_stride, used}, dim, add, out);
}

// Dots of one row that is kChunks vectors long, each reduced as soon as its loads are there. The same bits as Dots.
template <typename T, int kChunks>
FASTNEG_INLINE Vec<T> DotsOfRow(const T* query, const T* candidates, const int64_t* offsets) {
  Vec<T> query_chunks[kChunks];
  Vec<T> stack[7];  // For up to 64 lanes.
#pragma GCC unroll 8
  for (int c = 0; c < kChunks; ++c) query_chunks[c] = LoadAligned(query + c * kLanes<T>);
#pragma GCC unroll 16
  for (int l = 0; l < kLanes<T>; ++l) {
    const T* candidate = candidates + offsets[l];
    Vec<T> dot = query_chunks[0] * LoadAligned(candidate);
    DoNotFuse(dot);
#pragma GCC unroll 8
    for (int c = 1; c < kChunks; ++c) dot += query_chunks[c] * LoadAligned(candidate + c * kLanes<T>);
    PushForSums<T>(l, dot, stack);
  }
  int last = 0;
  while ((1 << last) < kLanes<T>) ++last;
  return stack[last];
}

// The WeightedSum of kLanes rows that are kChunks vectors long.
template <typename T, int kChunks, bool kWhole>
FASTNEG_INLINE void AddLanes(const WeightedSum<T>& sum, int64_t dim, bool add, T* out) {
  Vec<T> sums[kChunks];
#pragma GCC unroll 8
  for (int c = 0; c < kChunks; ++c) sums[c] = Zero<T>();
  if (add) LoadChunks<T, kChunks, kWhole>(out, dim, sums);
#pragma GCC unroll 16
  for (int l = 0; l < kLanes<T>; ++l) {
    const Vec<T> weight = Broadcast(sum.weights[l]);
    const T* row = sum.rows + sum.offsets[l];
#pragma GCC unroll 8
    for (int c = 0; c < kChunks; ++c) sums[c] += weight * LoadAligned(row + c * kLanes<T>);
  }
  StoreChunks<T, kChunks, kWhole>(sums, dim, out);
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_GATHERED_ROWS_H_
