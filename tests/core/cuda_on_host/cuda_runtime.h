// A stand-in for CUDA's header of this name: kernels compile as ordinary C++ and run on the host.
//
// A launch runs its blocks one after the other, in an order that can be chosen. The threads of a block are fibers: each
// runs until it waits for others (a barrier, or a shuffle or vote of its warp), so whatever the kernel relies on
// besides what it waits for shows up as a wrong result for some order. A wait that can never end, such as a shuffle
// that not all lanes of the warp reach, ends the process with a message. Memory is the host's, and what reads or writes
// outside of it is for the address sanitizer to find.
//
// The memory can be hidden (SetHidden), so that nobody but kernels may touch it, as that of a GPU.
//
// What it cannot show: races between blocks that run at the same time, the weak order of their memory accesses, and
// whether the code that nvcc makes is right.
#ifndef FASTNEG_TESTS_CORE_CUDA_ON_HOST_CUDA_RUNTIME_H_
#define FASTNEG_TESTS_CORE_CUDA_ON_HOST_CUDA_RUNTIME_H_

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static  // Blocks run one at a time.

struct alignas(16) uint4 {
  unsigned int x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

struct dim3 {
  unsigned int x = 1, y = 1, z = 1;
  dim3() = default;
  explicit dim3(unsigned int size) : x(size) {}
};

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_on_host {

// Blocks and fibers run in an order that follows this number; 0: as they are numbered.
void SetOrder(unsigned int order);

// Runs a block's threads for every block of a grid.
void RunGrid(unsigned int blocks, unsigned int threads, void (*thread)(void* context), void* context);

void Barrier();

// Memory that only kernels, and copies and fills by CUDA, may read or write; whole pages. Anybody else who does dies.
// Null: none.
void SetHidden(void* memory, size_t bytes);

// Lets everybody touch the hidden memory while it lives.
class Access {
 public:
  Access();
  ~Access();
};

// Notes that the host waits for the device.
void CountWait();

// Gives `value` to the warp and waits for what the other lanes give; returns all lanes' values. `operation` names what
// the lanes are at: all must be at the same.
const uint64_t* Exchange(unsigned int mask, uint64_t value, const char* operation);

unsigned int Lane();

template <typename T>
uint64_t ToBits(T value) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(value));
  return bits;
}
template <typename T>
T FromBits(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

}  // namespace cuda_on_host

inline void __syncthreads() { cuda_on_host::Barrier(); }
inline void __threadfence() {}

template <typename T>
T __shfl_xor_sync(unsigned int mask, T value, int lane_mask) {
  const uint64_t* values = cuda_on_host::Exchange(mask, cuda_on_host::ToBits(value), "__shfl_xor_sync");
  return cuda_on_host::FromBits<T>(values[cuda_on_host::Lane() ^ static_cast<unsigned int>(lane_mask)]);
}

template <typename T>
T __shfl_sync(unsigned int mask, T value, int source, int width = 32) {
  const uint64_t* values = cuda_on_host::Exchange(mask, cuda_on_host::ToBits(value), "__shfl_sync");
  const unsigned int size = static_cast<unsigned int>(width);
  const unsigned int first = cuda_on_host::Lane() / size * size;
  return cuda_on_host::FromBits<T>(values[first + static_cast<unsigned int>(source) % size]);
}

inline unsigned int __ballot_sync(unsigned int mask, bool value) {
  const uint64_t* values = cuda_on_host::Exchange(mask, value, "__ballot_sync");
  unsigned int votes = 0;
  for (unsigned int lane = 0; lane < 32; ++lane) votes |= static_cast<unsigned int>(values[lane] != 0) << lane;
  return votes;
}

inline bool __any_sync(unsigned int mask, bool value) { return __ballot_sync(mask, value) != 0; }

template <typename T>
T __ldg(const T* p) {
  return *p;
}
template <typename T>
T __ldcg(const T* p) {
  return *p;
}

inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline float __uint_as_float(unsigned int bits) { return cuda_on_host::FromBits<float>(bits); }
inline unsigned int __float_as_uint(float value) { return static_cast<unsigned int>(cuda_on_host::ToBits(value)); }

template <typename T>
T atomicAdd(T* p, T value) {
  const T old = *p;
  *p += value;
  return old;
}
template <typename T>
T atomicMax(T* p, T value) {
  const T old = *p;
  if (value > old) *p = value;
  return old;
}
template <typename T>
T atomicMin(T* p, T value) {
  const T old = *p;
  if (value < old) *p = value;
  return old;
}

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorStubLibrary = 34,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorNoKernelImageForDevice = 209,
};
struct CUstream_st;
using cudaStream_t = CUstream_st*;

enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost };

// malloc aligns to 16 bytes, which is what the kernels may rely on.
inline cudaError_t cudaMalloc(void** memory, size_t bytes) {
  *memory = std::malloc(bytes);
  return cudaSuccess;
}
inline cudaError_t cudaFree(void* memory) {
  std::free(memory);
  return cudaSuccess;
}
inline cudaError_t cudaMemset(void* memory, int value, size_t bytes) {
  const cuda_on_host::Access access;
  std::memset(memory, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  const cuda_on_host::Access access;
  cuda_on_host::CountWait();
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
  return cudaMemcpy(to, from, bytes, kind);  // Pageable memory waits, too.
}
inline cudaError_t cudaDeviceSynchronize() {
  cuda_on_host::CountWait();
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaDeviceSynchronize(); }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaErrorNoKernelImageForDevice ? "cudaErrorNoKernelImageForDevice" : "cudaSuccess";
}
inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t) {
  return cudaMemset(memory, value, bytes);
}

namespace cuda_on_host {
// What the next launch returns, once; cudaSuccess: it launches.
cudaError_t TakeRefusal();
}  // namespace cuda_on_host

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               const Arguments&... arguments) {
  if (const cudaError_t refusal = cuda_on_host::TakeRefusal(); refusal != cudaSuccess) return refusal;
  const auto thread = [&] { kernel(arguments...); };
  cuda_on_host::RunGrid(
      config->gridDim.x, config->blockDim.x, [](void* context) { (*static_cast<decltype(&thread)>(context))(); },
      const_cast<void*>(static_cast<const void*>(&thread)));
  return cudaSuccess;
}

#endif  // FASTNEG_TESTS_CORE_CUDA_ON_HOST_CUDA_RUNTIME_H_
