#include "core/cuda/c_api.h"

#include "core/cuda/api.h"
#include "core/cuda/launch.h"

namespace fastneg::cuda {

Status DeviceStatus() {
  int count = 0;
  const Status status = FromCuda(cudaGetDeviceCount(&count));
  return status == Status::kOk && count == 0 ? Status::kNoDevice : status;
}

}  // namespace fastneg::cuda

namespace {
fastneg::cuda::Stream AsStream(void* stream) { return static_cast<fastneg::cuda::Stream>(stream); }
}  // namespace

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
