// The largest numbers of a row, without sorting it.
#ifndef FASTNEG_CORE_CPU_SHARED_SELECT_LARGEST_H_
#define FASTNEG_CORE_CPU_SHARED_SELECT_LARGEST_H_

#include "core/cpu/simd/simd_math.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

// Numbers above `value` are selected, and those equal to it up to the place `last`.
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

// Copies what is above `bound`, NaN included, to `listed`, and fills its last vector with minus infinity. Returns how
// many there are.
template <typename T>
FASTNEG_INLINE int64_t ListAbove(const T* values, int64_t vecs, T bound, T* listed) {
  int64_t count = 0;
  for (int64_t v = 0; v < vecs; ++v) {
    uint32_t bits = LaneBits<T>(~(Load(values + v * kLanes<T>) <= bound));
    for (; bits != 0; bits &= bits - 1) listed[count++] = values[v * kLanes<T> + __builtin_ctz(bits)];
  }
  for (int64_t i = count; i % kLanes<T> != 0; ++i) listed[i] = -T(__builtin_huge_val());
  return count;
}

// Selects the `count` largest of values[0 .. size), of equal ones the first; 1 <= count <= size. Behind them the last
// vector is filled with minus infinity. `listed` has as much room as `values`.
//
// What is above a lower bound is listed, and bisection over the order of the numbers among these finds the cut.
template <typename T>
FASTNEG_NOINLINE Cut<T> SelectLargest(const T* values, int64_t size, int64_t count, T* listed) {
  using Key = decltype(OrderedKey(T(0)));
  const T lowest = -T(__builtin_huge_val());
  const int64_t vecs = (size + kLanes<T> - 1) / kLanes<T>;
  const T bound = LowerBound(values, vecs, count);
  const int64_t num_listed = ListAbove(values, vecs, bound, listed);
  if (num_listed < count) return {lowest, size};  // The others are minus infinity.

  const int64_t listed_vecs = (num_listed + kLanes<T> - 1) / kLanes<T>;
  Vec<T> largest = Broadcast(bound);
  for (int64_t v = 0; v < listed_vecs; ++v) largest = Max<T>(Load(listed + v * kLanes<T>), largest);
  // At least `count` numbers, NaN among them, are `low` or more, and fewer are `high` or more.
  Key low = OrderedKey(bound), high = OrderedKey(bound);
  for (int l = 0; l < kLanes<T>; ++l) high = largest[l] > FromOrderedKey<T>(high) ? OrderedKey(T(largest[l])) : high;
  for (++high; high - low > 1;) {
    const Key middle = low + (high - low) / 2;
    const T below = FromOrderedKey<T>(static_cast<Key>(middle - 1));
    const int64_t above = CountAbove(listed, listed_vecs, below);
    if (above == count) return {below, -1};
    (above > count ? low : high) = middle;
  }
  const T cut = FromOrderedKey<T>(low);
  int64_t wanted = count - CountAbove(listed, listed_vecs, cut), last = -1;
  for (int64_t i = 0; i < size && wanted > 0; ++i) {
    if (values[i] != cut) continue;
    last = i;
    --wanted;
  }
  return {cut, last};
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SHARED_SELECT_LARGEST_H_
