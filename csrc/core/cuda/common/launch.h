// Putting work on a stream, and what CUDA says to it.
#ifndef FASTNEG_CORE_CUDA_COMMON_LAUNCH_H_
#define FASTNEG_CORE_CUDA_COMMON_LAUNCH_H_

#include <cuda_runtime.h>

#include "core/cuda/api.h"

namespace fastneg::cuda {

// What FromCuda made a status of last, on this thread.
extern thread_local cudaError_t last_error;

inline Status FromCuda(cudaError_t error) {
  if (error == cudaSuccess) return Status::kOk;
  last_error = error;
  cudaGetLastError();  // It is reported here; nobody else's next check shall find it.
  switch (error) {
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorStubLibrary:
      return Status::kNoDevice;
    default:
      return Status::kDeviceFailure;
  }
}

// CUDA numbers blocks along x with 31 bits.
constexpr int64_t kMostBlocks = (int64_t{1} << 31) - 1;

template <typename... Parameters, typename... Arguments>
Status Launch(void (*kernel)(Parameters...), int64_t blocks, int threads, Stream stream,
              const Arguments&... arguments) {
  if (blocks > kMostBlocks) return Status::kInvalidSize;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned int>(blocks));
  config.blockDim = dim3(static_cast<unsigned int>(threads));
  config.stream = stream;
  return FromCuda(cudaLaunchKernelEx(&config, kernel, arguments...));
}

// Sets `bytes` bytes to `value`.
inline Status Fill(void* memory, int value, size_t bytes, Stream stream) {
  return memory == nullptr || bytes == 0 ? Status::kOk : FromCuda(cudaMemsetAsync(memory, value, bytes, stream));
}

}  // namespace fastneg::cuda

#endif  // FASTNEG_CORE_CUDA_COMMON_LAUNCH_H_
