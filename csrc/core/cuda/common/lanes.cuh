// A group of kLanes neighbouring lanes of a warp that works on one row.
//
// All functions are called by whole warps: groups without a row take part with whatever they hold. Sums are formed by
// butterflies, so that every lane gets the same bits, and the same ones whichever of a row's sums it is.
#ifndef FASTNEG_CORE_CUDA_COMMON_LANES_CUH_
#define FASTNEG_CORE_CUDA_COMMON_LANES_CUH_

#include <cuda_runtime.h>

namespace fastneg::cuda {

constexpr unsigned kWholeWarp = 0xffffffffu;
constexpr int kWarpSize = 32;

template <int kLanes>
struct Lanes {
  static_assert(kLanes >= 1 && kLanes <= kWarpSize && (kLanes & (kLanes - 1)) == 0, "a power of 2");

  // This thread's place in its group.
  static __device__ __forceinline__ int Index() { return static_cast<int>(threadIdx.x) % kLanes; }

  template <typename T>
  static __device__ __forceinline__ T Sum(T value) {
#pragma unroll
    for (int step = 1; step < kLanes; step *= 2) value += __shfl_xor_sync(kWholeWarp, value, step);
    return value;
  }

  // The largest value; a NaN may be passed over.
  template <typename T>
  static __device__ __forceinline__ T Max(T value) {
#pragma unroll
    for (int step = 1; step < kLanes; step *= 2) {
      const T other = __shfl_xor_sync(kWholeWarp, value, step);
      value = other > value ? other : value;
    }
    return value;
  }

  static __device__ __forceinline__ bool Any(bool value) {
    const unsigned votes = __ballot_sync(kWholeWarp, value);
    const unsigned group = (threadIdx.x % kWarpSize) / kLanes * kLanes;
    return (votes >> group & (kWholeWarp >> (kWarpSize - kLanes))) != 0;
  }

  // The value that lane `lane` of the group holds.
  template <typename T>
  static __device__ __forceinline__ T From(T value, int lane) {
    return __shfl_sync(kWholeWarp, value, lane, kLanes);
  }

  // kCount sums at once: lane l gets the sum of the group's values[l % kCount]. Takes kCount - 1 shuffles and one for
  // each power of 2 between kCount and kLanes, where kCount calls of Sum would take log2(kLanes) each.
  template <int kCount, typename T>
  static __device__ __forceinline__ T TransposedSum(T (&values)[kCount]) {
    static_assert(kCount <= kLanes && (kCount & (kCount - 1)) == 0, "a power of 2, and a lane for each sum");
#pragma unroll
    for (int step = 1; step < kCount; step *= 2) {
      const bool upper = (Index() & step) != 0;
#pragma unroll
      for (int v = 0; v < kCount / (2 * step); ++v) {
        const T kept = upper ? values[2 * v + 1] : values[2 * v];
        const T given = upper ? values[2 * v] : values[2 * v + 1];
        values[v] = kept + __shfl_xor_sync(kWholeWarp, given, step);
      }
    }
    T sum = values[0];
#pragma unroll
    for (int step = kCount; step < kLanes; step *= 2) sum += __shfl_xor_sync(kWholeWarp, sum, step);
    return sum;
  }
};

}  // namespace fastneg::cuda

#endif  // FASTNEG_CORE_CUDA_COMMON_LANES_CUH_
