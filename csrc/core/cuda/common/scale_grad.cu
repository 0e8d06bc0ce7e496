// The chain rule on a CUDA device: gradients for an upstream gradient of 1, times the real one, which is on the device
// too.
#include "core/cuda/api.h"
#include "core/cuda/common/blocks.h"
#include "core/cuda/common/launch.h"
#include "core/cuda/common/narrow.cuh"
#include "core/cuda/common/storage.cuh"
#include "core/sizes.h"

namespace fastneg::cuda {
namespace {

// A thread takes kVec neighbours, so that 16 bytes are read at a time where the type is float32.
template <typename Storage, int kVec>
__global__ void __launch_bounds__(kBlockThreads)
    ScaleGradKernel(const void* scale_pointer, const void* unit_grad, void* out, int64_t size) {
  using T = Compute<Storage>;
  const T scale = *static_cast<const T*>(scale_pointer);
  const T* from = static_cast<const T*>(unit_grad);
  Storage* to = static_cast<Storage*>(out);
  const int64_t begin = (int64_t{blockIdx.x} * kBlockThreads + threadIdx.x) * kVec;
  T values[kVec];
  if (begin + kVec <= size) {
    __builtin_memcpy(values, static_cast<const T*>(__builtin_assume_aligned(from + begin, sizeof(values))),
                     sizeof(values));
  } else {
    for (int e = 0; e < kVec; ++e) values[e] = begin + e < size ? from[begin + e] : T(0);
  }
#pragma unroll
  for (int e = 0; e < kVec; ++e) {
    // Not 0 times the gradient: a loss that does not count has gradient 0 whatever its value is.
    const T value = scale == T(0) ? T(0) : scale * values[e];
    if (begin + e < size) Narrow(value, &to[begin + e]);
  }
}

template <typename Storage>
Status LaunchScaleGrad(const ScaleGradArgs& args, const void* scale, Stream stream) {
  constexpr int kVec = 16 / sizeof(Compute<Storage>);
  const bool aligned = reinterpret_cast<uintptr_t>(args.unit_grad) % 16 == 0;
  const int64_t per_block = kBlockThreads * (aligned ? kVec : 1);
  const int64_t blocks = CeilDiv(args.size, per_block);
  return Launch(aligned ? ScaleGradKernel<Storage, kVec> : ScaleGradKernel<Storage, 1>, blocks, kBlockThreads, stream,
                scale, args.unit_grad, args.out, args.size);
}

}  // namespace

Status ScaleGrad(const ScaleGradArgs& args, const void* scale, Stream stream) {
  if (!IsSize(args.size)) return Status::kInvalidSize;
  if (args.size == 0) return Status::kOk;
  if (args.unit_grad == nullptr || args.out == nullptr || scale == nullptr) return Status::kNullPointer;
  switch (args.dtype) {
    case DType::kFloat16:
      return LaunchScaleGrad<Float16>(args, scale, stream);
    case DType::kBFloat16:
      return LaunchScaleGrad<BFloat16>(args, scale, stream);
    case DType::kFloat32:
      return LaunchScaleGrad<float>(args, scale, stream);
    case DType::kFloat64:
      return LaunchScaleGrad<double>(args, scale, stream);
    default:
      return Status::kUnsupportedDType;
  }
}

}  // namespace fastneg::cuda
