// A parameter of a loss as kernels get it: a number that the host knows, or one that only the device does.
#ifndef FASTNEG_CORE_CUDA_COMMON_SCALAR_CUH_
#define FASTNEG_CORE_CUDA_COMMON_SCALAR_CUH_

#include <cuda_runtime.h>

namespace fastneg::cuda {

struct Scalar {
  double value = 0.0;
  const void* on_device = nullptr;  // One value of the compute type, which takes the place of `value`; or null.

  // All threads read the same address: one access for a warp, and from the cache after the first.
  template <typename T>
  __device__ __forceinline__ T Get() const {
    return on_device == nullptr ? T(value) : __ldg(static_cast<const T*>(on_device));
  }
};

}  // namespace fastneg::cuda

#endif  // FASTNEG_CORE_CUDA_COMMON_SCALAR_CUH_
