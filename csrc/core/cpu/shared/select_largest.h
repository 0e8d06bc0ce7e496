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

// Selects the `count` largest of values[0 .. size), of equal ones the first; 1 <= count <= size. Radix selection:
// histograms of a few leading bits, then of the next ones of those numbers that share the leading bits with the last
// one selected. `scratch` has room for 2 * size words.
template <typename T>
__attribute__((noinline)) Cut<T> SelectLargest(const T* values, int64_t size, int64_t count, uint64_t* scratch) {
  constexpr int kBits = 11, kBuckets = 1 << kBits, kKeyBits = 8 * sizeof(T);
  uint64_t* keys = scratch;
  uint64_t* places = scratch + size;
  int32_t buckets[kBuckets] = {};
  int shift = kKeyBits - kBits;
  for (int64_t i = 0; i < size; ++i) ++buckets[OrderedKey(values[i]) >> shift];
  int64_t listed = -1;  // Size of the list; at first it is all of `values`.
  for (;;) {
    int bucket = kBuckets - 1;
    for (; buckets[bucket] < count; --bucket) count -= buckets[bucket];
    const bool all = buckets[bucket] == count;
    int64_t left = 0;
    const auto keep = [&](uint64_t key, uint64_t place) {
      if (static_cast<int>(key >> shift & (kBuckets - 1)) != bucket) return;
      keys[left] = key;
      places[left++] = place;
    };
    if (listed < 0) {
      for (int64_t i = 0; i < size; ++i) keep(OrderedKey(values[i]), static_cast<uint64_t>(i));
    } else {
      for (int64_t i = 0; i < listed; ++i) keep(keys[i], places[i]);
    }
    listed = left;
    if (all) {  // The smallest of them is the last one selected, wherever it is.
      uint64_t lowest = keys[0];
      for (int64_t i = 1; i < listed; ++i) lowest = keys[i] < lowest ? keys[i] : lowest;
      return {FromOrderedKey<T>(static_cast<decltype(OrderedKey(T(0)))>(lowest)), size};
    }
    if (shift == 0) {
      return {FromOrderedKey<T>(static_cast<decltype(OrderedKey(T(0)))>(keys[0])),
              static_cast<int64_t>(places[count - 1])};
    }
    shift = shift > kBits ? shift - kBits : 0;
    for (int b = 0; b < kBuckets; ++b) buckets[b] = 0;
    for (int64_t i = 0; i < listed; ++i) ++buckets[keys[i] >> shift & (kBuckets - 1)];
  }
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SHARED_SELECT_LARGEST_H_
