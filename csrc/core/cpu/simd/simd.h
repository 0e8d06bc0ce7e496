// Fixed-width vectors over the compiler's vector extension (GCC and Clang): one source for every instruction set.
//
// The width comes from the flags that a translation unit is compiled with. Everything lives in the namespace
// FASTNEG_ISA_NAMESPACE and is force-inlined, so that no function compiled for a newer instruction set can be
// merged by the linker with its namesake for an older one. For the same reason nothing of the standard library
// is instantiated here.
#ifndef FASTNEG_CORE_CPU_SIMD_SIMD_H_
#define FASTNEG_CORE_CPU_SIMD_SIMD_H_

#include <cstdint>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#ifndef FASTNEG_ISA_NAMESPACE
#error "Define FASTNEG_ISA_NAMESPACE: this header is compiled once per instruction set."
#endif

// FASTNEG_SMALL leaves to the compiler what is inlined: half as long to compile, up to 1.7 times slower.
#ifdef FASTNEG_SMALL
#define FASTNEG_INLINE inline
#define FASTNEG_LAMBDA_INLINE
#else
#define FASTNEG_INLINE inline __attribute__((always_inline))
#define FASTNEG_LAMBDA_INLINE __attribute__((always_inline))
#endif
// For what does enough work at a call to be called, and would take the compiler long in every place that calls it.
#define FASTNEG_NOINLINE __attribute__((noinline))

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <typename T>
struct Simd;

template <>
struct Simd<float> {
  using Int = int32_t;
  typedef float Vec __attribute__((vector_size(kVectorBytes)));
  typedef int32_t Mask __attribute__((vector_size(kVectorBytes)));
  typedef uint32_t Unsigned __attribute__((vector_size(kVectorBytes)));
  typedef uint8_t Bytes __attribute__((vector_size(kVectorBytes / 4)));  // One for each lane.
  typedef float UnalignedVec __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
  static constexpr int kLanes = kVectorBytes / 4;
};

template <>
struct Simd<double> {
  using Int = int64_t;
  typedef double Vec __attribute__((vector_size(kVectorBytes)));
  typedef int64_t Mask __attribute__((vector_size(kVectorBytes)));
  typedef uint64_t Unsigned __attribute__((vector_size(kVectorBytes)));
  typedef uint8_t Bytes __attribute__((vector_size(kVectorBytes / 8)));
  typedef double UnalignedVec __attribute__((vector_size(kVectorBytes), aligned(8), may_alias));
  static constexpr int kLanes = kVectorBytes / 8;
};

template <typename T>
using Vec = typename Simd<T>::Vec;
template <typename T>
using Mask = typename Simd<T>::Mask;
template <typename T>
using Unsigned = typename Simd<T>::Unsigned;
template <typename T>
constexpr int kLanes = Simd<T>::kLanes;

template <typename T>
FASTNEG_INLINE Vec<T> Load(const T* p) {
  return *reinterpret_cast<const typename Simd<T>::UnalignedVec*>(p);
}

template <typename T>
FASTNEG_INLINE void Store(T* p, Vec<T> v) {
  *reinterpret_cast<typename Simd<T>::UnalignedVec*>(p) = v;
}

template <typename T>
FASTNEG_INLINE Vec<T> LoadAligned(const T* p) {
  return *reinterpret_cast<const Vec<T>*>(p);
}

template <typename T>
FASTNEG_INLINE void StoreAligned(T* p, Vec<T> v) {
  *reinterpret_cast<Vec<T>*>(p) = v;
}

template <typename T>
FASTNEG_INLINE Vec<T> Broadcast(T x) {
  return x - Vec<T>{};
}

template <typename T>
FASTNEG_INLINE Vec<T> Zero() {
  return Vec<T>{};
}

// The first `count` elements at p, zeros behind them; reads nothing else. 0 <= count <= kLanes.
// StorePartial writes the first `count` lanes and nothing else.
template <typename T>
FASTNEG_INLINE Vec<T> LoadPartial(const T* p, int64_t count) {
#if defined(__AVX512F__)
  const unsigned mask = (1u << count) - 1;
  if constexpr (sizeof(T) == 4) {
    return reinterpret_cast<Vec<T>>(_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), p));
  } else {
    return reinterpret_cast<Vec<T>>(_mm512_maskz_loadu_pd(static_cast<__mmask8>(mask), p));
  }
#else
  Vec<T> v{};
  for (int64_t l = 0; l < count; ++l) v[l] = p[l];
  return v;
#endif
}

template <typename T>
FASTNEG_INLINE void StorePartial(T* p, Vec<T> v, int64_t count) {
#if defined(__AVX512F__)
  const unsigned mask = (1u << count) - 1;
  if constexpr (sizeof(T) == 4) {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>(mask), reinterpret_cast<__m512>(v));
  } else {
    _mm512_mask_storeu_pd(p, static_cast<__mmask8>(mask), reinterpret_cast<__m512d>(v));
  }
#else
  for (int64_t l = 0; l < count; ++l) p[l] = v[l];
#endif
}

// In a * b + c * d the compiler may fuse either product with the sum, which rounds differently. After this, not the one
// that v holds.
template <typename V>
FASTNEG_INLINE void DoNotFuse(V& v) {
#if defined(__AVX512F__)
  __asm__("" : "+v"(v));
#else
  (void)v;
#endif
}

template <typename T>
FASTNEG_INLINE Vec<T> LoadValid(const T* p, int64_t count) {
  return count == kLanes<T> ? Load(p) : LoadPartial(p, count);
}
template <typename T>
FASTNEG_INLINE void StoreValid(T* p, Vec<T> v, int64_t count) {
  count == kLanes<T> ? Store(p, v) : StorePartial(p, v, count);
}

// f(d, count) for each vector of `size` elements: those from d on, `count` of them.
template <typename T, typename F>
FASTNEG_INLINE void ForChunks(int64_t size, F f) {
  int64_t d = 0;
  for (; d + kLanes<T> <= size; d += kLanes<T>) f(d, int64_t{kLanes<T>});
  if (d < size) f(d, size - d);
}

template <typename T>
FASTNEG_INLINE Vec<T> Min(Vec<T> a, Vec<T> b) {  // b where either is NaN.
  return a < b ? a : b;
}
template <typename T>
FASTNEG_INLINE Vec<T> Max(Vec<T> a, Vec<T> b) {  // b where either is NaN.
  return a > b ? a : b;
}

template <typename T>
FASTNEG_INLINE Vec<T> SquareRoot(Vec<T> v) {
#if defined(__AVX512F__)  // maskz: GCC 12 warns of the plain intrinsics' undefined registers.
  if constexpr (sizeof(T) == 4) {
    return reinterpret_cast<Vec<T>>(_mm512_maskz_sqrt_ps(0xffff, reinterpret_cast<__m512>(v)));
  } else {
    return reinterpret_cast<Vec<T>>(_mm512_maskz_sqrt_pd(0xff, reinterpret_cast<__m512d>(v)));
  }
#else
  for (int l = 0; l < kLanes<T>; ++l)
    v[l] = static_cast<T>(sizeof(T) == 4 ? __builtin_sqrtf(v[l]) : __builtin_sqrt(v[l]));
  return v;
#endif
}

// Two-source lane permutation: index l < kLanes takes a[l], the others b[l - kLanes].
#if defined(__clang__)
template <typename T>
FASTNEG_INLINE Vec<T> Lanes(Vec<T> a, Vec<T> b, Mask<T> index) {
  Vec<T> result{};
  for (int l = 0; l < kLanes<T>; ++l) {
    const auto from = index[l];
    result[l] = from < kLanes<T> ? a[from] : b[from - kLanes<T>];
  }
  return result;
}
#else
template <typename T>
FASTNEG_INLINE Vec<T> Lanes(Vec<T> a, Vec<T> b, Mask<T> index) {
  return __builtin_shuffle(a, b, index);
}
#endif

// Index vectors of the butterfly step that merges blocks of kStep lanes: lanes whose kStep bit is clear come from a,
// the others from b, each taken at the lane with that bit clear (Low) or set (High).
template <typename T, int kStep, bool kHigh>
FASTNEG_INLINE constexpr Mask<T> ButterflyIndex() {
  Mask<T> index{};
  for (int l = 0; l < kLanes<T>; ++l) {
    const int source = kHigh ? (l | kStep) : (l & ~kStep);
    index[l] = static_cast<typename Simd<T>::Int>((l & kStep) ? source + kLanes<T> : source);
  }
  return index;
}

// Lanes whose kStep bit is clear hold what `merge` makes of a's pair of lanes that differ in that bit, the others what
// it makes of b's.
template <typename T, int kStep, typename Merge>
FASTNEG_INLINE Vec<T> MergePairs(Vec<T> a, Vec<T> b, const Merge& merge) {
  if constexpr (kVectorBytes >= 32) {  // A blend and a shuffle: fewer of the shuffles that only one port can do.
    Mask<T> from_b{}, crossed{};
    for (int l = 0; l < kLanes<T>; ++l) {
      from_b[l] = (l & kStep) ? -1 : 0;
      crossed[l] = static_cast<typename Simd<T>::Int>((l & kStep) ? (l & ~kStep) + kLanes<T> : (l | kStep));
    }
    return merge(from_b ? b : a, Lanes<T>(a, b, crossed));
  } else {
    return merge(Lanes<T>(a, b, ButterflyIndex<T, kStep, false>()), Lanes<T>(a, b, ButterflyIndex<T, kStep, true>()));
  }
}

template <typename T, int kStep>
FASTNEG_INLINE Vec<T> MergePairSums(Vec<T> a, Vec<T> b) {
  return MergePairs<T, kStep>(a, b, [](Vec<T> x, Vec<T> y) FASTNEG_LAMBDA_INLINE { return x + y; });
}

// From kLanes vectors, pushed one by one with their place l, to one that holds in lane l the sum of the l-th one's
// lanes: stack[log2(kLanes)] after the last. Every sum is formed by the same tree, so equal inputs give equal bits
// whatever lane they come in. `l` has to be a constant after unrolling.
template <typename T, int kStep = 1>
FASTNEG_INLINE void PushForSums(int l, Vec<T> v, Vec<T>* stack) {
  if constexpr (kStep < kLanes<T>) {
    if (l & kStep) return PushForSums<T, 2 * kStep>(l, MergePairSums<T, kStep>(*stack, v), stack + 1);
  }
  *stack = v;
}

// The same with all vectors at hand. Destroys v.
template <typename T, int kStep = 1>
FASTNEG_INLINE Vec<T> TransposedSums(Vec<T>* v) {
  if constexpr (kStep == kLanes<T>) {
    return v[0];
  } else {
    for (int l = 0; l < kLanes<T>; l += 2 * kStep) v[l] = MergePairSums<T, kStep>(v[l], v[l + kStep]);
    return TransposedSums<T, 2 * kStep>(v);
  }
}

// Transposes the kLanes x kLanes matrix whose rows are v[0 .. kLanes).
template <typename T, int kStep = 1>
FASTNEG_INLINE void Transpose(Vec<T>* v) {
  if constexpr (kStep < kLanes<T>) {
    for (int l = 0; l < kLanes<T>; ++l) {
      if (l & kStep) continue;
      // Element (l, c) with c's kStep bit set changes places with (l + kStep, c without it).
      Mask<T> low{}, high{};
      for (int c = 0; c < kLanes<T>; ++c) {
        low[c] = static_cast<typename Simd<T>::Int>((c & kStep) ? (c & ~kStep) + kLanes<T> : c);
        high[c] = static_cast<typename Simd<T>::Int>((c & kStep) ? c + kLanes<T> : (c | kStep));
      }
      const Vec<T> a = v[l], b = v[l + kStep];
      v[l] = Lanes<T>(a, b, low);
      v[l + kStep] = Lanes<T>(a, b, high);
    }
    Transpose<T, 2 * kStep>(v);
  }
}

// The same, for callers that are not worth a copy of all that code.
template <typename T>
FASTNEG_NOINLINE void CallTranspose(Vec<T>* v) {
  Transpose<T>(v);
}

// The sum of v's lanes, formed by the tree of TransposedSums.
template <typename T, int kStep = 1>
FASTNEG_INLINE T Sum(Vec<T> v) {
  if constexpr (kStep == kLanes<T>) {
    return v[0];
  } else {
    Mask<T> swapped{};
    for (int l = 0; l < kLanes<T>; ++l) swapped[l] = static_cast<typename Simd<T>::Int>(l ^ kStep);
    return Sum<T, 2 * kStep>(v + Lanes<T>(v, v, swapped));
  }
}

// The largest of v's lanes but for NaN.
template <typename T, int kStep = 1>
FASTNEG_INLINE T LargestLane(Vec<T> v) {
  if constexpr (kStep == kLanes<T>) {
    return v[0];
  } else {
    Mask<T> swapped{};
    for (int l = 0; l < kLanes<T>; ++l) swapped[l] = static_cast<typename Simd<T>::Int>(l ^ kStep);
    return LargestLane<T, 2 * kStep>(Max<T>(v, Lanes<T>(v, v, swapped)));
  }
}

// Bit l tells whether lane l is true.
template <typename T>
FASTNEG_INLINE uint32_t LaneBits(Mask<T> mask) {
#if defined(__AVX512F__)
  const auto bits = reinterpret_cast<__m512i>(mask);
  return sizeof(T) == 4 ? _mm512_movepi32_mask(bits) : _mm512_movepi64_mask(bits);
#elif defined(__AVX__)
  if constexpr (sizeof(T) == 4) return __builtin_ia32_movmskps256(reinterpret_cast<Vec<float>>(mask));
  if constexpr (sizeof(T) == 8) return __builtin_ia32_movmskpd256(reinterpret_cast<Vec<double>>(mask));
#elif defined(__SSE2__)
  if constexpr (sizeof(T) == 4) return __builtin_ia32_movmskps(reinterpret_cast<Vec<float>>(mask));
  if constexpr (sizeof(T) == 8) return __builtin_ia32_movmskpd(reinterpret_cast<Vec<double>>(mask));
#else
  uint32_t bits = 0;
  for (int l = 0; l < kLanes<T>; ++l) bits |= static_cast<uint32_t>(mask[l] & 1) << l;
  return bits;
#endif
}

template <typename T>
FASTNEG_INLINE bool Any(Mask<T> mask) {
  return LaneBits<T>(mask) != 0;
}

template <typename T>
FASTNEG_INLINE T MaxLane(Vec<T> v) {  // NaN if any lane is NaN.
  T m = v[0];
  for (int l = 1; l < kLanes<T>; ++l) m = (v[l] > m || v[l] != v[l]) ? v[l] : m;
  return m;
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SIMD_SIMD_H_
