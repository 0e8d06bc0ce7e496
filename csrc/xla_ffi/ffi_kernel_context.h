// An execution of an op by XLA, in the buffers of a custom call.
#ifndef FASTNEG_XLA_FFI_FFI_KERNEL_CONTEXT_H_
#define FASTNEG_XLA_FFI_FFI_KERNEL_CONTEXT_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "ops/kernel_context.h"
#include "ops/op.h"
#include "xla_ffi/call_frame.h"
#include "xla_ffi/cuda_device.h"
#include "xla_ffi/xla_ffi_c_api.h"

namespace fastneg::xla_ffi {

class FfiKernelContext final : public ops::KernelContext {
 public:
  // `device` is null on the CPU.
  FfiKernelContext(const XLA_FFI_CallFrame& frame, const CudaDevice* device)
      : frame_(frame), attributes_(frame.attrs), device_(device) {}
  ~FfiKernelContext();
  FfiKernelContext(const FfiKernelContext&) = delete;
  FfiKernelContext& operator=(const FfiKernelContext&) = delete;

  // Finds the values of the op's attributes and the buffers of its inputs and outputs; fails where they are not what
  // the op's definition asks for. An input of one scalar may also come as an attribute of its name, a number.
  void Bind(const ops::Op& op, int64_t* attributes);

  int num_inputs() const override { return static_cast<int>(inputs_.size()); }
  ops::Tensor Input(int index) override;
  DType OutputType(int index) const override { return outputs_[static_cast<size_t>(index)].dtype; }
  ops::Tensor AllocateOutput(int index, DType dtype, const int64_t* dims, int rank) override;
  ops::Tensor ForwardInputOrAllocateOutput(int input, int output, const int64_t* dims, int rank,
                                           bool* forwarded) override;
  void PassOn(int input, int output) override;
  ops::Tensor AllocateTemp(size_t num_bytes) override;
  int num_threads() const override;
  const ops::Device* device() const override { return device_; }

  ops::ErrorCode error_code() const { return error_code_; }
  const std::string& error_message() const { return error_message_; }

 private:
  struct View {
    DType dtype = DType::kFloat32;
    const int64_t* dims = nullptr;
    int rank = 0;
    void* data = nullptr;
    bool is_number = false;  // It came as an attribute, and is on the host.
  };

  // A scalar that came as an attribute.
  union Scalar {
    double float64;
    float float32;
  };

  // What a type of the op's definition is in this call.
  struct TypeOf {
    const char* name;
    DType dtype;
  };

  struct DeviceMemory {
    void* data;
    size_t num_bytes;
  };

  static constexpr size_t kMostScalars = 16;

  void Report(ops::ErrorCode code, const char* message) override;
  // How many tensors an input or output stands for.
  int64_t Count(const ops::Op& op, const char* count, const int64_t* attributes) const;
  // Null for a type that no buffer has shown yet.
  const TypeOf* Known(const char* type) const;
  bool AddBuffer(const XLA_FFI_Buffer& buffer, const char* name, const ops::Op& op, const char* type,
                 std::vector<View>* views);
  void BindOutputs(const ops::Op& op, const int64_t* attributes);
  void BindInputs(const ops::Op& op, const int64_t* attributes);
  void BindNumber(const ops::OpInput& input, double number);
  void RefuseCount(const ops::Op& op, const char* what, int64_t received);
  void* HostScalar(DType dtype, double number);

  const XLA_FFI_CallFrame& frame_;
  const Attributes attributes_;
  const CudaDevice* device_;
  std::vector<View> inputs_;
  std::vector<View> outputs_;
  std::vector<TypeOf> types_;
  Scalar scalars_[kMostScalars];
  size_t num_scalars_ = 0;
  std::vector<DeviceMemory> device_memory_;
  ops::ErrorCode error_code_ = ops::ErrorCode::kInternal;
  std::string error_message_;
};

}  // namespace fastneg::xla_ffi

#endif  // FASTNEG_XLA_FFI_FFI_KERNEL_CONTEXT_H_
