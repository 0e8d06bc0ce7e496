// The losses on a CUDA device, as their ops want them: the functions of _cuda.so, which is loaded where it is wanted,
// and a stream.
#ifndef FASTNEG_XLA_FFI_CUDA_DEVICE_H_
#define FASTNEG_XLA_FFI_CUDA_DEVICE_H_

#include <cstddef>

#include "ops/kernel_context.h"

namespace fastneg::xla_ffi {

class CudaDevice final : public ops::Device {
 public:
  explicit CudaDevice(void* stream) : stream_(stream) {}

  // For tests, which load kernels that run on the host: there is neither a stream nor other memory.
  static CudaDevice OnHost() {
    CudaDevice device(nullptr);
    device.on_host_ = true;
    return device;
  }
  bool on_host() const { return on_host_; }

  size_t WorkspaceBytes(const RolledSoftmaxArgs& args) const override;
  size_t WorkspaceBytes(const ShuffledCosineArgs& args) const override;
  size_t WorkspaceBytes(const SvSoftmaxArgs& args) const override;
  Status Run(const RolledSoftmaxArgs& args) const override;
  Status Run(const ShuffledCosineArgs& args) const override;
  Status Run(const SvSoftmaxArgs& args) const override;
  Status SetZero(void* memory, size_t num_bytes) const override;
  const char* LastErrorName() const override;

 private:
  void* stream_;
  bool on_host_ = false;
};

}  // namespace fastneg::xla_ffi

#endif  // FASTNEG_XLA_FFI_CUDA_DEVICE_H_
