#include "core/cuda/c_api.h"

#include "core/cuda/api.h"
#include "core/cuda/common/launch.h"

namespace fastneg::cuda {

thread_local cudaError_t last_error = cudaSuccess;

const char* LastErrorName() { return cudaGetErrorName(last_error); }

Status DeviceStatus() {
  int count = 0;
  const Status status = FromCuda(cudaGetDeviceCount(&count));
  return status == Status::kOk && count == 0 ? Status::kNoDevice : status;
}

Status SetZero(void* memory, size_t num_bytes, Stream stream) { return Fill(memory, 0, num_bytes, stream); }

}  // namespace fastneg::cuda

namespace {
fastneg::cuda::Stream AsStream(void* stream) { return static_cast<fastneg::cuda::Stream>(stream); }
}  // namespace

const char* FastnegCudaLastErrorName() { return fastneg::cuda::LastErrorName(); }

int32_t FastnegCudaDeviceStatus() { return static_cast<int32_t>(fastneg::cuda::DeviceStatus()); }

size_t FastnegCudaRolledSoftmaxArgsBytes() { return sizeof(fastneg::RolledSoftmaxArgs); }
size_t FastnegCudaRolledSoftmaxWorkspaceBytes(const fastneg::RolledSoftmaxArgs* args) {
  return fastneg::cuda::RolledSoftmaxWorkspaceBytes(*args);
}
int32_t FastnegCudaRolledSoftmax(const fastneg::RolledSoftmaxArgs* args, void* stream) {
  return static_cast<int32_t>(fastneg::cuda::RolledSoftmax(*args, AsStream(stream)));
}

size_t FastnegCudaShuffledCosineArgsBytes() { return sizeof(fastneg::ShuffledCosineArgs); }
size_t FastnegCudaShuffledCosineWorkspaceBytes(const fastneg::ShuffledCosineArgs* args) {
  return fastneg::cuda::ShuffledCosineWorkspaceBytes(*args);
}
int32_t FastnegCudaShuffledCosine(const fastneg::ShuffledCosineArgs* args, void* stream) {
  return static_cast<int32_t>(fastneg::cuda::ShuffledCosine(*args, AsStream(stream)));
}

size_t FastnegCudaSvSoftmaxArgsBytes() { return sizeof(fastneg::SvSoftmaxArgs); }
size_t FastnegCudaSvSoftmaxWorkspaceBytes(const fastneg::SvSoftmaxArgs* args) {
  return fastneg::cuda::SvSoftmaxWorkspaceBytes(*args);
}
int32_t FastnegCudaSvSoftmax(const fastneg::SvSoftmaxArgs* args, void* stream) {
  return static_cast<int32_t>(fastneg::cuda::SvSoftmax(*args, AsStream(stream)));
}

int32_t FastnegCudaScaleGrad(const fastneg::ScaleGradArgs* args, const void* scale, void* stream) {
  return static_cast<int32_t>(fastneg::cuda::ScaleGrad(*args, scale, AsStream(stream)));
}

int32_t FastnegCudaSetZero(void* memory, size_t num_bytes, void* stream) {
  return static_cast<int32_t>(fastneg::cuda::SetZero(memory, num_bytes, AsStream(stream)));
}
