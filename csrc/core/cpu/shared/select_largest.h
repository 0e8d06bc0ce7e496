// The largest numbers of a row, without sorting it.
#ifndef FASTNEG_CORE_CPU_SHARED_SELECT_LARGEST_H_
#define FASTNEG_CORE_CPU_SHARED_SELECT_LARGEST_H_

#include "core/cpu/simd/simd_math.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

// Numbers above `cut` are selected, and those equal to it up to the place `last`.
template <typename T>
struct Cut {
  T value;
  int64_t last;
};

// The integer whose order is that of the numbers; 0 and -0 are equal, NaN is above all.
template <typename T>
FASTNEG_INLINE auto OrderedKey(T x) {
  using Key = __typeof__(MathConstants<T>::kOneBits + 0);
  constexpr int kSign = 8 * sizeof(T) - 1;
  x += T(0);
  typename Simd<T>::Int bits;
  __builtin_memcpy(&bits, &x, sizeof(x));
  const Key key = static_cast<Key>(bits) ^ (static_cast<Key>(bits >> kSign) | (Key(1) << kSign));
  return x == x ? key : ~Key(0);
}

template <typename T, typename Key>
FASTNEG_INLINE T FromOrderedKey(Key key) {
  constexpr int kSign = 8 * sizeof(T) - 1;
  const Key bits = (key >> kSign) != 0 ? key ^ (Key(1) << kSign) : ~key;
  T x;
  __builtin_memcpy(&x, &bits, sizeof(x));
  return x;
}

// How many of `vecs` vectors' numbers are not `pivot` or less.
template <typename T>
FASTNEG_INLINE int64_t CountAbove(const T* values, int64_t vecs, T pivot) {
  Mask<T> count{};
  const Vec<T> limit = Broadcast(pivot);
  for (int64_t v = 0; v < vecs; ++v) count += Load(values + v * kLanes<T>) <= limit;
  int64_t at_most = 0;
  for (int l = 0; l < kLanes<T>; ++l) at_most -= count[l];
  return vecs * kLanes<T> - at_most;
}

// A number that at least `count` of the values are above, and if that is soon found not many more: a guess from their
// mean and deviation, improved a few times. Minus infinity where all of them might be needed.
template <typename T>
FASTNEG_INLINE T LowerBound(const T* values, int64_t vecs, int64_t count) {
  const Vec<T> zero = Zero<T>(), one = Broadcast(T(1));
  Vec<T> members{}, sums{}, squares{};
  for (int64_t v = 0; v < vecs; ++v) {
    const Vec<T> x = Load(values + v * kLanes<T>);
    const Mask<T> finite = x - x == T(0);
    const Vec<T> part = finite ? x : zero;
    members += finite ? one : zero;
    sums += part;
    squares += part * part;
  }
  const T lowest = -T(__builtin_huge_val());
  const T size = Sum<T>(members), wanted = static_cast<T>(count);
  const T enough = T(3) * wanted + T(16);
  if (!(size > enough)) return lowest;
  const T mean = Sum<T>(sums) / size, variance = Sum<T>(squares) / size - mean * mean;
  const T deviation = static_cast<T>(__builtin_sqrt(variance > T(0) ? static_cast<double>(variance) : 0.0));
  // How many deviations above the mean a part of normally distributed numbers is, but for a tenth.
  const double part = static_cast<double>((T(2) * wanted + T(8)) / size);
  const double spread = __builtin_sqrt(-2 * __builtin_log(part < 0.5 ? part : 0.5));
  T pivot =
      mean + deviation * static_cast<T>(spread - (2.307 + 0.271 * spread) / (1 + spread * (0.992 + 0.0448 * spread)));
  T low = lowest, high = -lowest, step = deviation / 2;
  for (int tries = 0; tries < 8; ++tries) {
    const T above = static_cast<T>(CountAbove(values, vecs, pivot));
    if (above >= wanted) {
      low = pivot;
      if (above <= enough) break;
    } else {
      high = pivot;
    }
    const bool bracketed = low > lowest && high < -lowest;
    pivot = bracketed ? low + (high - low) / 2 : above >= wanted ? pivot + step : pivot - step;
    step += step;
  }
  return low;
}

// Selects the `count` largest of values[0 .. size), of equal ones the first; 1 <= count <= size. Behind them the last
// vector is filled with minus infinity. `scratch` has room for 2 * size words.
//
// What is above a lower bound is listed, and radix selection among these tells the last one selected: histograms of a
// few leading bits, then of the next ones of those numbers that share the leading bits with it.
template <typename T>
FASTNEG_NOINLINE Cut<T> SelectLargest(const T* values, int64_t size, int64_t count, uint64_t* scratch) {
  using Key = decltype(OrderedKey(T(0)));
  constexpr int kBits = 8, kBuckets = 1 << kBits;
  uint64_t* keys = scratch;
  uint64_t* places = scratch + size;
  const int64_t vecs = (size + kLanes<T> - 1) / kLanes<T>;
  const T bound = LowerBound(values, vecs, count);
  int64_t listed = 0;
  for (int64_t v = 0; v < vecs; ++v) {
    const Vec<T> x = Load(values + v * kLanes<T>);
    if (!Any<T>(~(x <= bound))) continue;
    for (int64_t i = v * kLanes<T>; i < (v + 1) * kLanes<T> && i < size; ++i) {
      if (values[i] <= bound) continue;
      keys[listed] = OrderedKey(values[i]);
      places[listed++] = static_cast<uint64_t>(i);
    }
  }
  if (listed < count) return {-T(__builtin_huge_val()), size};  // The others are minus infinity.

  for (int shift = 8 * sizeof(T) - kBits;; shift -= kBits) {
    int32_t buckets[kBuckets] = {};
    for (int64_t i = 0; i < listed; ++i) ++buckets[keys[i] >> shift & (kBuckets - 1)];
    uint64_t bucket = kBuckets - 1;
    for (; buckets[bucket] < count; --bucket) count -= buckets[bucket];
    const bool all = buckets[bucket] == count;
    int64_t left = 0;
    for (int64_t i = 0; i < listed; ++i) {
      const uint64_t key = keys[i], place = places[i];
      keys[left] = key;
      places[left] = place;
      left += (key >> shift & (kBuckets - 1)) == bucket;
    }
    listed = left;
    if (all) {  // The smallest of them is the last one selected, wherever it is.
      uint64_t lowest = keys[0];
      for (int64_t i = 1; i < listed; ++i) lowest = keys[i] < lowest ? keys[i] : lowest;
      return {FromOrderedKey<T>(static_cast<Key>(lowest)), size};
    }
    if (shift == 0) return {FromOrderedKey<T>(static_cast<Key>(keys[0])), static_cast<int64_t>(places[count - 1])};
  }
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SHARED_SELECT_LARGEST_H_
