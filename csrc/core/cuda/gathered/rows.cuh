// One row of a matrix that meets other rows: dot products with them, and a weighted sum of them.
//
// Two classes with one interface. RegisterRow keeps the row, the sum and the rows that it meets in registers, so that a
// row which it meets is read once for its dot product and its part of the sum. MemoryRow, for rows of any length, reads
// it twice (from the first-level cache the second time) and keeps the sum where the result goes.
//
// Lane l of kLanes holds the packs l, l + kLanes, ... of a row. A dot product has the same bits whichever of the two
// rows is the own one, and whichever of kTogether places the other one has.
#ifndef FASTNEG_CORE_CUDA_GATHERED_ROWS_CUH_
#define FASTNEG_CORE_CUDA_GATHERED_ROWS_CUH_

#include <cstdint>

#include "core/cuda/common/lanes.cuh"
#include "core/cuda/common/storage.cuh"

namespace fastneg::cuda {

// Back through x -> x / |x|: the gradient of a row from that of its normalised form v, (g - (g . v) v) / norm. Where
// epsilon took the norm's place, which a negative `inverse` tells, or the row counts as 0, nothing is projected out.
template <typename T>
struct NormalisationGrad {
  T length;    // 1 / norm
  bool whole;  // Nothing is projected out.

  __device__ NormalisationGrad(T inverse, bool normalise)
      : length(inverse < 0 ? -inverse : inverse), whole(!normalise || !(inverse > 0)) {}

  // `along` is g . x for the row x as it was given.
  __device__ T operator()(T grad, T along, T given) const {
    return length * (whole ? grad : grad - along * length * (given * length));
  }
};

template <typename Storage, int kVecElements, int kLaneCount, int kChunks>
class RegisterRow {
 public:
  using Element = Storage;
  using T = Compute<Storage>;
  using Group = Lanes<kLaneCount>;
  static constexpr int kVec = kVecElements;
  static constexpr int kLanes = kLaneCount;
  // Rows that a group can hold at once: 32 elements of each of a lane's rows, and 32 of their sums.
  static constexpr int kMostSets = kVec > 1 && kChunks == 1 ? 32 / kVec : 1;
  // Rows met at a time. Their loads are in flight together.
  static constexpr int kTogether = kChunks >= 4 ? 4 : 8 / kChunks;

  __device__ RegisterRow(int dim, T*) {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) in_row_[c] = Place(c) < dim;
#pragma unroll
    for (int e = 0; e < kVec * kChunks; ++e) own_[e] = sum_[e] = 0;
  }

  __device__ void SetOwn(const Storage* row) {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const auto pack = Load(row, c);
#pragma unroll
      for (int v = 0; v < kVec; ++v) own_[c * kVec + v] = Widen(pack.elements[v]);
    }
  }

  // The product with another row; with none (null), 0.
  __device__ T Dot(const Storage* other) const {
    T part = 0;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) part = PartialDot(Load(other, c), c, part);
    return Group::Sum(part);
  }

  // Reads rows to meet. Lane l gets the product with the row l % kTogether.
  __device__ T Meet(const Storage* const (&others)[kTogether]) {
#pragma unroll
    for (int q = 0; q < kTogether; ++q) {
#pragma unroll
      for (int c = 0; c < kChunks; ++c) met_[q][c] = Load(others[q], c);
    }
    T parts[kTogether];
#pragma unroll
    for (int q = 0; q < kTogether; ++q) {
      parts[q] = 0;
#pragma unroll
      for (int c = 0; c < kChunks; ++c) parts[q] = PartialDot(met_[q][c], c, parts[q]);
    }
    return Group::TransposedSum(parts);
  }

  // Adds the rows met last to the sum, each times the weight that lane q of the group has for row q. A weight of 0
  // leaves its row out, whatever that holds.
  __device__ void AddMet(T weight) {
#pragma unroll
    for (int q = 0; q < kTogether; ++q) {
      const T w = Group::From(weight, q);
      if (w != T(0)) {
#pragma unroll
        for (int c = 0; c < kChunks; ++c) AddPack(met_[q][c], c, w);
      }
    }
  }

  // The same for one row, with a weight that all lanes know.
  __device__ void Add(const Storage* other, T weight) {
    if (weight == T(0)) return;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) AddPack(Load(other, c), c, weight);
  }

  __device__ void ScaleSum(T factor) {
#pragma unroll
    for (int e = 0; e < kVec * kChunks; ++e) sum_[e] *= factor;
  }

  // Writes scale * sum, taken back through the own row's normalisation; zeros if not `used`.
  __device__ void Finish(bool used, T scale, NormalisationGrad<T> through, bool write, T* out) {
    T along = 0;
#pragma unroll
    for (int e = 0; e < kVec * kChunks; ++e) {
      sum_[e] *= scale;
      along += sum_[e] * own_[e];
    }
    along = Group::Sum(along);
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      T values[kVec];
#pragma unroll
      for (int v = 0; v < kVec; ++v) {
        const int e = c * kVec + v;
        values[v] = used ? through(sum_[e], along, own_[e]) : T(0);
      }
      if (write && in_row_[c]) StoreValues<kVec>(values, out + Place(c));
    }
  }

 private:
  using RowPack = Pack<Storage, kVec>;

  static __device__ __forceinline__ int Place(int chunk) { return (chunk * kLanes + Group::Index()) * kVec; }

  __device__ __forceinline__ RowPack Load(const Storage* row, int chunk) const {
    return row != nullptr && in_row_[chunk] ? LoadPack<Storage, kVec>(row + Place(chunk)) : ZeroPack<Storage, kVec>();
  }

  __device__ __forceinline__ T PartialDot(const RowPack& pack, int chunk, T part) const {
#pragma unroll
    for (int v = 0; v < kVec; ++v) part += own_[chunk * kVec + v] * Widen(pack.elements[v]);
    return part;
  }

  __device__ __forceinline__ void AddPack(const RowPack& pack, int chunk, T weight) {
#pragma unroll
    for (int v = 0; v < kVec; ++v) sum_[chunk * kVec + v] += weight * Widen(pack.elements[v]);
  }

  bool in_row_[kChunks];
  T own_[kVec * kChunks];
  T sum_[kVec * kChunks];
  RowPack met_[kTogether][kChunks];
};

template <typename Storage, int kVecElements>
class MemoryRow {
 public:
  using Element = Storage;
  using T = Compute<Storage>;
  using Group = Lanes<kWarpSize>;
  static constexpr int kVec = kVecElements;
  static constexpr int kLanes = kWarpSize;
  static constexpr int kMostSets = 1;
  static constexpr int kTogether = 4;

  // `out` is where the sum is kept; null if none is wanted.
  __device__ MemoryRow(int dim, T* out) : dim_(dim), out_(out) {}

  __device__ void SetOwn(const Storage* row) { own_ = row; }

  __device__ T Dot(const Storage* other) const {
    T part = 0;
    if (other != nullptr && own_ != nullptr) {
      for (int d = Group::Index() * kVec; d < dim_; d += kLanes * kVec) part = PartialDot(other, d, part);
    }
    return Group::Sum(part);
  }

  __device__ T Meet(const Storage* const (&others)[kTogether]) {
    T parts[kTogether];
#pragma unroll
    for (int q = 0; q < kTogether; ++q) {
      met_[q] = others[q];
      parts[q] = 0;
    }
    if (own_ != nullptr) {
      for (int d = Group::Index() * kVec; d < dim_; d += kLanes * kVec) {
#pragma unroll
        for (int q = 0; q < kTogether; ++q) {
          if (met_[q] != nullptr) parts[q] = PartialDot(met_[q], d, parts[q]);
        }
      }
    }
    return Group::TransposedSum(parts);
  }

  __device__ void AddMet(T weight) {
    T weights[kTogether];
    bool any = false;
#pragma unroll
    for (int q = 0; q < kTogether; ++q) {
      weights[q] = Group::From(weight, q);
      any |= weights[q] != T(0);
    }
    if (!any) return;
    for (int d = Group::Index() * kVec; d < dim_; d += kLanes * kVec) {
      T values[kVec];
      LoadSum(d, values);
#pragma unroll
      for (int q = 0; q < kTogether; ++q) {
        if (weights[q] != T(0)) AddPack(met_[q], d, weights[q], values);
      }
      StoreValues<kVec>(values, out_ + d);
    }
    started_ = true;
  }

  __device__ void Add(const Storage* other, T weight) {
    if (weight == T(0)) return;
    for (int d = Group::Index() * kVec; d < dim_; d += kLanes * kVec) {
      T values[kVec];
      LoadSum(d, values);
      AddPack(other, d, weight, values);
      StoreValues<kVec>(values, out_ + d);
    }
    started_ = true;
  }

  __device__ void ScaleSum(T factor) {
    if (!started_) return;
    for (int d = Group::Index() * kVec; d < dim_; d += kLanes * kVec) {
      T values[kVec];
      LoadSum(d, values);
#pragma unroll
      for (int v = 0; v < kVec; ++v) values[v] *= factor;
      StoreValues<kVec>(values, out_ + d);
    }
  }

  __device__ void Finish(bool used, T scale, NormalisationGrad<T> through, bool write, T*) {
    T along = 0;
    if (used && own_ != nullptr) {
      for (int d = Group::Index() * kVec; d < dim_; d += kLanes * kVec) {
        T values[kVec];
        LoadSum(d, values);
        const auto own = LoadPack<Storage, kVec>(own_ + d);
#pragma unroll
        for (int v = 0; v < kVec; ++v) along += scale * values[v] * Widen(own.elements[v]);
      }
    }
    along = Group::Sum(along);
    if (!write) return;
    for (int d = Group::Index() * kVec; d < dim_; d += kLanes * kVec) {
      T values[kVec] = {};
      if (used) {
        LoadSum(d, values);
        const auto own = LoadPack<Storage, kVec>(own_ + d);
#pragma unroll
        for (int v = 0; v < kVec; ++v) values[v] = through(scale * values[v], along, Widen(own.elements[v]));
      }
      StoreValues<kVec>(values, out_ + d);
    }
  }

 private:
  __device__ __forceinline__ T PartialDot(const Storage* other, int d, T part) const {
    const auto own = LoadPack<Storage, kVec>(own_ + d);
    const auto pack = LoadPack<Storage, kVec>(other + d);
#pragma unroll
    for (int v = 0; v < kVec; ++v) part += Widen(own.elements[v]) * Widen(pack.elements[v]);
    return part;
  }

  __device__ __forceinline__ void LoadSum(int d, T (&values)[kVec]) const {
#pragma unroll
    for (int v = 0; v < kVec; ++v) values[v] = started_ ? out_[d + v] : T(0);
  }

  static __device__ __forceinline__ void AddPack(const Storage* row, int d, T weight, T (&values)[kVec]) {
    const auto pack = LoadPack<Storage, kVec>(row + d);
#pragma unroll
    for (int v = 0; v < kVec; ++v) values[v] += weight * Widen(pack.elements[v]);
  }

  const int dim_;
  T* const out_;
  bool started_ = false;  // Whether there is a sum in `out_`.
  const Storage* own_ = nullptr;
  const Storage* met_[kTogether];
};

}  // namespace fastneg::cuda

#endif  // FASTNEG_CORE_CUDA_GATHERED_ROWS_CUH_
