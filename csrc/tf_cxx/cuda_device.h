// The losses on a CUDA device, as their ops want them: _cuda.so and a stream.
#ifndef FASTNEG_TF_CXX_CUDA_DEVICE_H_
#define FASTNEG_TF_CXX_CUDA_DEVICE_H_

#include <cstddef>

#include "core/cuda/c_api.h"
#include "tf_ops/kernel_context.h"

namespace fastneg::tf_cxx {

class CudaDevice final : public tf_ops::Device {
 public:
  // Sizes of workspaces can be had without a stream.
  explicit CudaDevice(void* stream = nullptr) : stream_(stream) {}

  size_t WorkspaceBytes(const RolledSoftmaxArgs& args) const override {
    return FastnegCudaRolledSoftmaxWorkspaceBytes(&args);
  }
  size_t WorkspaceBytes(const ShuffledCosineArgs& args) const override {
    return FastnegCudaShuffledCosineWorkspaceBytes(&args);
  }
  size_t WorkspaceBytes(const SvSoftmaxArgs& args) const override { return FastnegCudaSvSoftmaxWorkspaceBytes(&args); }

  Status Run(const RolledSoftmaxArgs& args) const override {
    return static_cast<Status>(FastnegCudaRolledSoftmax(&args, stream_));
  }
  Status Run(const ShuffledCosineArgs& args) const override {
    return static_cast<Status>(FastnegCudaShuffledCosine(&args, stream_));
  }
  Status Run(const SvSoftmaxArgs& args) const override {
    return static_cast<Status>(FastnegCudaSvSoftmax(&args, stream_));
  }

  // The scale is on the device.
  Status ScaleGrad(const ScaleGradArgs& args, const void* scale) const {
    return static_cast<Status>(FastnegCudaScaleGrad(&args, scale, stream_));
  }

  // Waits for the stream.
  Status CopyToHost(void* host, const void* device, size_t num_bytes) const {
    return static_cast<Status>(FastnegCudaCopyToHost(host, device, num_bytes, stream_));
  }

  Status SetZero(void* memory, size_t num_bytes) const override {
    return static_cast<Status>(FastnegCudaSetZero(memory, num_bytes, stream_));
  }

  const char* LastErrorName() const override { return FastnegCudaLastErrorName(); }

 private:
  void* stream_;
};

}  // namespace fastneg::tf_cxx

#endif  // FASTNEG_TF_CXX_CUDA_DEVICE_H_
